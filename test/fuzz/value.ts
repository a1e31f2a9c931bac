// Arguments for calls that are meant to be refused, and for some that are not. A value is described by its text, so that
// a failure can be printed, and made at the call, from the objects that the calls before it left behind.

import fc from 'fast-check';

// biome-ignore lint/suspicious/noExplicitAny: values of every kind, on purpose
export type Any = any;

/** What the program's own getters and traps throw: passed on as it is, and no refusal. */
export class Thrown extends Error {}

/** Objects that calls have made, by kind; disposed ones stay. */
export class Pool {
  readonly made = new Map<string, Any[]>();

  add(kind: string, object: Any): void {
    const list = this.made.get(kind);
    if (list) list.push(object);
    else this.made.set(kind, [object]);
  }

  pick(kind: string, index: number): Any {
    const list = this.made.get(kind) ?? [];
    return list[index % list.length];
  }
}

export interface Value {
  text: string;
  make(pool: Pool): Any;
}

export const value = (text: string, make: (pool: Pool) => Any): Value => ({ text, make });

export const plain = (given: Any): Value => value(JSON.stringify(given), () => structuredClone(given));

const code = (source: () => Any): Value => value(`(${source.toString().replace(/\s+/g, ' ')})()`, source);

export const list = (values: fc.Arbitrary<Value[]>): fc.Arbitrary<Value> =>
  values.map((entries) =>
    value(`[${entries.map((entry) => entry.text).join(', ')}]`, (pool) => entries.map((entry) => entry.make(pool))),
  );

/** An object with some of the keys. */
export const record = (entries: Record<string, fc.Arbitrary<Value>>, required: string[] = []): fc.Arbitrary<Value> =>
  (fc.record(entries, { requiredKeys: required }) as fc.Arbitrary<Record<string, Value>>).map((given) => {
    const pairs = Object.entries(given);
    return value(`{ ${pairs.map(([key, entry]) => `${key}: ${entry.text}`).join(', ')} }`, (pool) =>
      Object.fromEntries(pairs.map(([key, entry]) => [key, entry.make(pool)])),
    );
  });

export const picked = (...kinds: string[]): fc.Arbitrary<Value> =>
  fc
    .tuple(fc.constantFrom(...kinds), fc.nat({ max: 40 }))
    .map(([kind, index]) => value(`${kind}#${index}`, (pool) => pool.pick(kind, index)));

const thrower = () => {
  throw new Thrown('by the program');
};

/** An array buffer that has been given away. */
const detached = (): ArrayBuffer => {
  const buffer = new ArrayBuffer(64);
  structuredClone(buffer, { transfer: [buffer] });
  return buffer;
};

const numbers = [
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  -0,
  -1,
  -2,
  0.5,
  2 ** 31 - 1,
  2 ** 31,
  -(2 ** 31),
  2 ** 32,
  2 ** 53 - 1,
  2 ** 53,
  -(2 ** 53),
  2 ** 63,
  1e308,
  5e-324,
].map((number) => value(Object.is(number, -0) ? '-0' : String(number), () => number));

const primitives = [
  code(() => undefined),
  code(() => null),
  code(() => true),
  code(() => false),
  code(() => 0n),
  code(() => 2n ** 64n),
  code(() => -(2n ** 200_000n)),
  code(() => ''),
  code(() => 'cpu'),
  code(() => 'cuda:99'),
  code(() => 'cuda:18446744073709551616'),
  code(() => 'cpu\0'),
  code(() => 'float32'),
  code(() => '4'),
  code(() => '\ud800 %s %n'),
  code(() => '%n'.repeat(500_000)),
  code(() => Symbol('s')),
  code(() => Symbol.iterator),
];

const objects = [
  code(() => ({})),
  code(() => []),
  code(() => Object.create(null)),
  code(() => () => 4),
  code(() => class A {}),
  code(() => async () => 4),
  code(() => new Date(Number.NaN)),
  code(() => /x/),
  code(() => new Map([[1, 2]])),
  code(() => new Proxy([1, 2, 3, 4], {})),
  code(() => new Proxy(class A {}, {})),
  code(() => Promise.resolve(4)),
  code(() => globalThis),
  code(() => new Error('x')),
  code(() => ({ valueOf: () => 4, toString: () => 'cpu', [Symbol.toPrimitive]: () => 4 })),
  code(() => ({ constructor: null })),
  code(() => ({ constructor: { name: Symbol('s') } })),
  code(() => ({ length: 3, 0: 1, 1: 1, 2: 1 })),
  code(() => Object.freeze([1, 2])),
  value('a cyclic array', () => {
    const cyclic: Any[] = [1];
    cyclic.push(cyclic);
    return cyclic;
  }),
  value('an array of 2 ** 32 - 1 holes', () => new Array(2 ** 32 - 1)),
  value('an array with one entry and 2 ** 32 - 2 holes', () => Object.assign([1], { length: 2 ** 32 - 1 })),
  code(() => new Array(2000).fill(1)),
  value('an array that grows when it is read', () => {
    const array: Any[] = [1];
    Object.defineProperty(array, 0, {
      get: () => {
        for (let i = 0; i < 100; i++) array.push({ left: 0, right: 0, window: [1] });
        return { left: 0, right: 0, window: [1] };
      },
    });
    return array;
  }),
  value('an array that shrinks when it is read', () => {
    const array: Any[] = [1, 1, 1, 1];
    Object.defineProperty(array, 0, {
      get: () => {
        array.length = 1;
        return 1;
      },
    });
    return array;
  }),
];

/** What throws when it is looked at. */
const throwing = [
  value('an array with a getter that throws', () => Object.defineProperty([1, 2], 1, { get: thrower })),
  value('an object whose constructor throws', () => Object.defineProperty({}, 'constructor', { get: thrower })),
  value('an object whose constructor has no name', () => ({
    constructor: Object.defineProperty({}, 'name', { get: thrower }),
  })),
  value(
    'a proxy that throws',
    () => new Proxy({}, { get: thrower, has: thrower, ownKeys: thrower, getPrototypeOf: thrower }),
  ),
  value('a proxy of an array that throws', () => new Proxy([1, 2], { get: thrower })),
  value('a revoked proxy', () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  }),
  value('a revoked proxy of an array', () => {
    const { proxy, revoke } = Proxy.revocable([], {});
    revoke();
    return proxy;
  }),
];

/** Buffers of ES2024, which the compiler's library does not know. */
const resizable = (type: Any, bytes: number) => new type(bytes, { maxByteLength: 64 });

export const arrays: Value[] = [
  code(() => new Float32Array(8)),
  code(() => new Float32Array(0)),
  code(() => new Float64Array(8)),
  code(() => new Int8Array(8)),
  code(() => new Uint8ClampedArray(8)),
  code(() => new Uint8Array(8)),
  code(() => new Int16Array(8)),
  code(() => new Uint16Array(8)),
  code(() => new Int32Array(8)),
  code(() => new Uint32Array(8)),
  code(() => new BigInt64Array(8)),
  code(() => new BigUint64Array(8)),
  code(() => Buffer.alloc(8)),
  code(() => new DataView(new ArrayBuffer(32))),
  code(() => new ArrayBuffer(32)),
  code(() => new SharedArrayBuffer(32)),
  code(() => new Float32Array(new SharedArrayBuffer(32))),
  code(() => new Uint8Array(new SharedArrayBuffer(32), 3, 8)),
  code(() => Object.create(Float32Array.prototype)),
  code(() => new Proxy(new Float32Array(8), {})),
  value('a detached Float32Array', () => {
    const array = new Float32Array(8);
    structuredClone(array.buffer, { transfer: [array.buffer] });
    return array;
  }),
  value('a detached buffer', detached),
  value('an array over a resizable buffer', () => new Float32Array(resizable(ArrayBuffer, 32))),
  value('an array that its buffer has shrunk away from', () => {
    const buffer = resizable(ArrayBuffer, 64);
    const array = new Float32Array(buffer, 32, 8);
    buffer.resize(0);
    return array;
  }),
  value('an array over a growable shared buffer', () => {
    const buffer = resizable(SharedArrayBuffer, 32);
    const array = new Float32Array(buffer);
    buffer.grow(64);
    return array;
  }),
  value('an array that lies about its length', () =>
    Object.defineProperty(new Float32Array(8), 'length', { value: 1e9 }),
  ),
  value('a shared array that lies about its buffer', () =>
    Object.defineProperties(new Float32Array(new SharedArrayBuffer(32)), {
      buffer: { value: new ArrayBuffer(4) },
      byteOffset: { value: 2 ** 40 },
    }),
  ),
  value('a Float16Array', () => new ((globalThis as Any).Float16Array ?? Uint16Array)(8)),
];

const kinds = ['tensor', 'stream', 'event', 'graph', 'mask', 'bias', 'exposure', 'foreign'];

/** Anything at all. */
export const hostile: fc.Arbitrary<Value> = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...numbers) },
  { weight: 4, arbitrary: fc.constantFrom(...primitives) },
  { weight: 4, arbitrary: fc.constantFrom(...objects) },
  { weight: 3, arbitrary: fc.constantFrom(...throwing) },
  { weight: 3, arbitrary: fc.constantFrom(...arrays) },
  { weight: 4, arbitrary: picked(...kinds) },
  {
    weight: 2,
    arbitrary: picked(...kinds).map(({ text, make }) =>
      value(`Object.create(${text})`, (pool) => Object.create(Object(make(pool)))),
    ),
  },
  {
    weight: 2,
    arbitrary: picked(...kinds).map(({ text, make }) =>
      value(`new Proxy(${text}, {})`, (pool) => new Proxy(Object(make(pool)), {})),
    ),
  },
);

/** A value that fits, nine times out of ten. */
export const mostly = (fitting: fc.Arbitrary<Value>, weight = 9): fc.Arbitrary<Value> =>
  fc.oneof({ weight, arbitrary: fitting }, { weight: 1, arbitrary: hostile });

export const oneOf = (...given: Any[]): fc.Arbitrary<Value> => fc.constantFrom(...given.map(plain));

const extent = fc.constantFrom<number[]>(0, 1, 1, 2, 2, 3, 4, 5, 7, 8);

/**
 * Shapes of at most 4096 elements, or of more than any memory, now and then with something that is no length: what lies
 * between would only take time.
 */
export const shape: fc.Arbitrary<Value> = fc.oneof(
  {
    weight: 12,
    arbitrary: fc
      .array(extent, { maxLength: 7 })
      .filter((lengths) => lengths.reduce((a, b) => a * Math.max(b, 1), 1) <= 4096)
      .map(plain),
  },
  { weight: 2, arbitrary: oneOf([8], [2, 4], [1, 5, 4, 8], [1, 7, 2, 8], [1, 7, 2, 6]) },
  {
    weight: 1,
    arbitrary: fc
      .tuple(fc.array(extent, { maxLength: 4 }), fc.constantFrom(2 ** 50, 2 ** 52, 2 ** 53 - 1))
      .map(([lengths, giant]) => plain([...lengths, giant])),
  },
  { weight: 1, arbitrary: list(fc.array(fc.oneof(hostile, extent.map(plain)), { maxLength: 9 })) },
  { weight: 1, arbitrary: hostile },
);
