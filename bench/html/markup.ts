const ENTITIES: { [character: string]: string } = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' };

/** A text that is no markup, for use in HTML. */
export const plain = (text: string): string => text.replace(/[&<>"]/g, (each) => ENTITIES[each]!);
