// Headings of figures by which the report knows the rows of a curve or of a table.

export const NEEDLE_WIDTH = 'needle width';
export const FOUND_RATE = 'found rate';
/** Of the keys, those that plans show; and vectors that were scored to select, over the keys. */
export const SHOWN = 'density';
export const SCORED = 'keys scored';
