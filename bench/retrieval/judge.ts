// Whether what is found is what was looked for.

import { HEAD_DIM } from '../sparse/heads';
import { type Data, productOf, TOP } from './cases';
import type { Finder } from './contestants';

/** Recall of all searches, any keys being right that are as good as the last of the best; and what is wrong with them. */
export async function judgeFinder(
  { find, exact }: Pick<Finder, 'find' | 'exact'>,
  { k, q, least }: Pick<Data, 'k' | 'q' | 'least'>,
): Promise<{ recall: number; fault?: string }> {
  const keys = k.length / HEAD_DIM;
  let found = 0;
  let query = 0;
  for (let n = 0; query < least.length; n++) {
    for (const [head, ids] of (await find(n)).entries()) {
      const where = `search ${n}, head ${head}`;
      const odd = ids.find((id) => !(id >= 0 && id < keys));
      if (odd !== undefined) return { recall: 0, fault: `${where}: ${odd} is no key` };
      if (new Set(ids).size < TOP) return { recall: 0, fault: `${where}: a key is there twice` };
      const { product, slack } = least[query]!;
      const asked = q.subarray(query * HEAD_DIM, (query + 1) * HEAD_DIM);
      query++;
      for (const id of ids) {
        const own = productOf(asked, k, id);
        if (own >= product) found++;
        if (!exact || own >= product - slack) continue;
        return { recall: 0, fault: `${where}: key ${id} has the product ${own}, the last of the best has ${product}` };
      }
    }
  }
  return { recall: found / (least.length * TOP) };
}
