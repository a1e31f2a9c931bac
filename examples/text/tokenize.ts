// Cuts a text into tokens, as a compiler would: words, numbers, quoted words, and single signs. Comments and white
// space are left out.

export interface Tokens {
  /** One number per token: its place in the vocabulary. */
  ids: Int32Array;
  /** The distinct tokens, in the order of their first appearance. */
  vocabulary: string[];
  /** Per vocabulary entry, 1 for a word that is not a keyword of TypeScript. */
  identifier: Uint8Array;
}

const COMMENT = /\/\*.*?\*\/|(?<!:)\/\/[^\n]*/gs;
const TOKEN = /(?<word>[\p{L}_$][\p{L}\p{M}\p{N}_$]*)|\p{N}[\p{L}\p{N}_.]*|"[^"\s]*"|'[^'\s]*'|\S/gu;

const KEYWORDS = new Set(
  `abstract any as asserts async await bigint boolean break case catch class const constructor continue debugger declare
   default delete do else enum export extends false finally for from function get if implements import in infer
   instanceof interface is keyof let module namespace never new null number object of override private protected public
   readonly require return set static string super switch symbol this throw true try type typeof undefined unique
   unknown var void while with yield`.split(/\s+/),
);

/** The first `limit` tokens of a text. */
export function tokenize(text: string, limit = Number.POSITIVE_INFINITY): Tokens {
  const known = new Map<string, number>();
  const identifier: number[] = [];
  const ids: number[] = [];
  for (const match of text.replace(COMMENT, ' ').matchAll(TOKEN)) {
    if (ids.length >= limit) break;
    const token = match[0];
    let id = known.get(token);
    if (id === undefined) {
      id = known.size;
      known.set(token, id);
      identifier.push(match.groups?.word !== undefined && !KEYWORDS.has(token) ? 1 : 0);
    }
    ids.push(id);
  }
  return { ids: Int32Array.from(ids), vocabulary: [...known.keys()], identifier: Uint8Array.from(identifier) };
}
