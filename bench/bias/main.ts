// The suite of biases.

import { devices } from 'node-attention';
import { count } from '../cases';
import { floorOf } from '../floor';
import { type Fault, makeRow, OWN, type Peak, type Row, type SuiteResult } from '../format';
import { watchLoad } from '../load';
import { interleave, type Measurement, type Plan } from '../measure';
import { memoryObstacle } from '../obstacle';
import { peaksOf } from '../peak';
import { TorchPeer } from '../peers/torch';
import { type Progress, runSteps, type Suite, type SuiteOptions } from '../session';
import { medianRatio } from '../statistics';
import { judgeBy, type Target } from '../targets';
import { type BiasCase, biasCases, denseBytes, type Form, hasOnnxruntime, kindOf, rowName, tensorBytes } from './cases';
import { type Judged, judgeOutput } from './check';
import { type Contestant, inputsOf, library, onnxruntime, pytorch, torchName } from './contestants';

/** ONNX Runtime's threads spin for 25 ms after their last task. */
const FULL: Plan = { rounds: 6, batchMs: 50, settleMs: 40 };
const QUICK: Plan = { rounds: 3, batchMs: 20, settleMs: 40, patience: 1, warmRuns: 1 };

const ABOUT =
  'Attention on the CPU with biases of low rank, in closed form and dense, against none, against ONNX Runtime with the ' +
  'dense one, and (--torch) against PyTorch with that and with closed forms: time, memory and error.';

const chosen = ({ quick, filter }: SuiteOptions) => biasCases(quick).filter(({ name }) => name.includes(filter));

export const bias: Suite = {
  name: 'bias',
  about: ABOUT,
  caseNames: () => biasCases(false).map(({ name }) => name),
  obstacle: () => undefined,
  steps: (options) => chosen(options).map((test) => ({ name: test.name, seconds: secondsOf(test, options) })),
  run: bench,
};

/** A case after its rounds; what is wrong has no samples. */
interface Outcome extends Measurement {
  test: BiasCase;
  /** Sets of inputs that take turns. */
  sets: number;
  /** Those that were timed, in the order of `samples`. */
  timed: Contestant[];
  judged: Map<string, Judged>;
  /** Those that do not take a form, and why. */
  absent: { form: Form; contestant: string; fault: string }[];
}

async function bench(options: SuiteOptions, progress: Progress): Promise<SuiteResult> {
  const { threads, instructionSet } = devices().find(({ device }) => device === 'cpu')!;
  const outcomes: Outcome[] = [];
  peaksOf(threads!, options.quick);
  const { torch, quick } = options;
  const peer = torch && new TorchPeer(torch.python, threads!);
  const steps = chosen(options).map((test) => ({
    name: test.name,
    run: async () => void outcomes.push(await measureCase(test, { quick, threads: threads!, peer })),
  }));
  const failure = await runSteps(steps, progress);
  await peer?.close();
  const peaks = peaksOf(threads!, options.quick);
  const rows = outcomes.flatMap((outcome) => rowsOf(outcome, peaks, instructionSet!, threads!));
  return {
    suite: 'bias',
    about: ABOUT,
    command: `npm run bench -- bias${torch ? ' --torch' : ''}`,
    versions: {
      'onnxruntime-node': require('onnxruntime-node/package.json').version,
      ...(torch ? { pytorch: torch.version } : {}),
    },
    peaks,
    rows,
    targets: judgeBy(TARGETS, rows, ({ name }) => name),
    notMeasured: [
      {
        what: 'ONNX Runtime in bfloat16, and on the point cloud',
        why: 'its attention on the CPU has no bfloat16, and no bias but a dense one',
      },
      ...(torch ? [] : [{ what: 'PyTorch', why: 'not asked for, or not found (--torch)' }]),
    ],
    failure,
  };
}

interface Task {
  quick: boolean;
  threads: number;
  peer: TorchPeer | undefined;
}

async function measureCase(test: BiasCase, { quick, threads, peer }: Task): Promise<Outcome> {
  const inputs = inputsOf(test);
  const contestants: Contestant[] = test.forms.map((form) => library(form, test, inputs));
  const absent: Outcome['absent'] = [];
  if (hasOnnxruntime(test)) {
    const fault = memoryObstacle(2 * test.batch * denseBytes(test)); // of all scores, as measured
    if (fault === undefined) contestants.push(await onnxruntime(test, inputs, threads));
    else absent.push({ form: 'dense', contestant: 'onnxruntime', fault });
  }
  for (const form of peer ? test.forms.filter((form) => TORCH_FORMS.includes(form)) : []) {
    const contestant = form === 'dense' ? 'pytorch' : 'pytorch-flex';
    const refuse = (fault: string) => absent.push({ form, contestant, fault });
    if (form !== 'dense' && quick) refuse('left out of --quick: compiling takes longer than measuring');
    else if (form === 'dense' && denseBytes(test) > MOST_TORCH_BYTES) refuse('the dense bias goes there as a file');
    else
      await pytorch(form, test, inputs, peer!).then(
        (each) => contestants.push(each),
        ({ message }) => refuse(message),
      );
  }
  const judged = new Map<string, Judged>();
  for (const contestant of contestants) {
    await contestant.run(inputs.sets);
    judged.set(contestant.name, await judgeOutput(contestant, test, inputs));
  }
  const timed = contestants.filter(({ name }) => judged.get(name)!.fault === undefined);
  const measurement = await interleave(timed, quick ? QUICK : FULL, watchLoad(peer?.pid));
  for (const contestant of contestants) await contestant.close();
  return { test, sets: inputs.sets, timed, judged, absent, ...measurement };
}

/** What PyTorch has a way for: a dense bias, or what may be added to a score by its place. */
const TORCH_FORMS: readonly Form[] = ['dense', 'alibi', 'distance', 'relative'];
const MOST_TORCH_BYTES = 2 ** 30;

const rankOf = (form: Form) => (form.startsWith('rank ') ? Number(form.slice(5)) : 0);

/** The figures that targets are about: times as long as without a bias, and as with the dense one. */
const OVER_NONE = 'over none';
const OVER_DENSE = 'over dense';

/** A row for each form: this library with it, and beside it all that it is compared with. */
export function rowsOf(
  { test, sets, timed, judged, absent, samples, disturbed, repeated }: Outcome,
  peaks: readonly Peak[],
  instructionSet: string,
  threads: number,
): Row[] {
  const { dtype, batch, tokens, heads, headDim, causal, forms } = test;
  const length = count(tokens);
  const pairs = batch * heads * (causal ? (length * (length + 1)) / 2 : length ** 2);
  const flops = 4 * headDim * pairs;
  const samplesOf = (name: string) => samples[timed.findIndex((contestant) => contestant.name === name)];
  /** What stands beside a form: its name in the row, and among the contestants. */
  const others = (form: Form) =>
    Object.entries({
      none: 'none',
      dense: 'dense',
      onnxruntime: 'onnxruntime',
      pytorch: torchName('dense'),
      ...(form === 'dense' ? {} : { 'pytorch-flex': torchName(form) }),
    }).filter(([shown, name]) => shown !== form && samplesOf(name) !== undefined);
  return forms
    .filter((form) => form !== 'none')
    .map((form) => {
      const [own, none, dense] = [samplesOf(form), samplesOf('none'), samplesOf('dense')];
      const contestant = timed.find(({ name }) => name === form);
      const bytes = 4 * tensorBytes(test) + (contestant?.biasBytes ?? 0);
      // A bias of low rank is one more product, of as many columns.
      const withBias = flops + 2 * rankOf(form) * pairs;
      const { fault, error, tolerance } = judged.get(form)!;
      const faults: Fault[] = fault === undefined ? [] : [{ contestant: OWN, fault }];
      // What is wrong with those that have no row of their own is told once, with the first.
      for (const name of form === forms[1] ? ['none', 'onnxruntime', 'pytorch'] : []) {
        const wrong = judged.get(name)?.fault;
        if (wrong !== undefined) faults.push({ contestant: name, fault: wrong });
      }
      const flex = form === 'dense' ? undefined : judged.get(torchName(form))?.fault;
      if (flex !== undefined) faults.push({ contestant: 'pytorch-flex', fault: flex });
      return makeRow({
        name: rowName(test, form),
        case: { mask: form, dtype, tokens: length, headDim, threads, data: kindOf(test) },
        samples: {
          ...(own ? { [OWN]: own } : {}),
          ...Object.fromEntries(others(form).map(([shown, name]) => [shown, samplesOf(name)!])),
        },
        disturbed,
        repeated,
        sets,
        flops,
        bytes,
        floor: floorOf(
          { flops: withBias, dtype, exponentials: pairs, bytes, footprint: sets * bytes },
          { peaks, instructionSet, threads },
        ),
        errors: {
          [OWN]: error,
          ...Object.fromEntries(others(form).map(([shown, name]) => [shown, judged.get(name)!.error])),
        },
        tolerance,
        memory: contestant?.callBytes === undefined ? undefined : { [OWN]: tensorBytes(test) + contestant.callBytes },
        faults,
        absent: [
          ...(forms.includes('dense')
            ? []
            : [
                {
                  contestant: 'dense',
                  fault: `${test.name}: the bias would take ${(denseBytes(test) / 2 ** 30).toFixed(1)} GiB`,
                },
              ]),
          ...absent
            .filter((each) => each.form === form)
            .map(({ contestant, fault }) => ({ contestant, fault: `${rowName(test, form)}: ${fault}` })),
        ],
        figures: {
          ...(own && none ? { [OVER_NONE]: medianRatio(own, none) } : {}),
          ...(rankOf(form) > 0 ? { 'by flops': withBias / flops } : {}),
          ...(own && dense && form !== 'dense' ? { [OVER_DENSE]: medianRatio(own, dense) } : {}),
          ...(contestant ? { 'bias MiB': contestant.biasBytes / 2 ** 20 } : {}),
        },
      });
    });
}

const isForm = (row: Row, form: Form) => row.case.mask === form;

export const TARGETS: Target<Row>[] = [
  {
    text: 'alibi, headDim 128: at most 1.1 times no bias',
    figure: (row) => (isForm(row, 'alibi') && row.case.headDim === 128 ? row.figures?.[OVER_NONE] : undefined),
    atMost: 1.1,
  },
  ...([128, 64] as const).map((headDim) => ({
    text: `rank 16, headDim ${headDim}: at most ${headDim === 128 ? 1.12 : 1.2} times no bias`,
    figure: (row: Row) =>
      isForm(row, 'rank 16') && row.case.headDim === headDim ? row.figures?.[OVER_NONE] : undefined,
    atMost: headDim === 128 ? 1.12 : 1.2,
  })),
  {
    text: 'alibi: at most half the time of the dense bias from 4096 tokens on',
    figure: (row) => (isForm(row, 'alibi') && row.case.tokens >= 4096 ? row.figures?.[OVER_DENSE] : undefined),
    atMost: 0.5,
  },
  {
    text: 'no slower than the dense bias from 1024 tokens on, up to rank 16',
    figure: (row) =>
      row.case.tokens >= 1024 && !isForm(row, 'rank 64') && !isForm(row, 'rank 256')
        ? row.figures?.[OVER_DENSE]
        : undefined,
    atMost: 1,
  },
];

/** About how long a case takes: that of its rounds, and of making and checking its inputs; flex_attention is compiled. */
function secondsOf({ batch, tokens, heads, headDim, forms }: BiasCase, { quick, torch }: SuiteOptions): number {
  const length = count(tokens);
  const once = (4 * headDim * batch * heads * length ** 2) / 3e11;
  const rounds = (quick ? QUICK : FULL).rounds;
  const flex = torch && !quick ? forms.filter((form) => form !== 'dense' && TORCH_FORMS.includes(form)).length : 0;
  return 20 * flex + (forms.length + 1 + flex) * (rounds * (0.1 + 2 * once) + once + (length * headDim) / 1e6) + 1;
}
