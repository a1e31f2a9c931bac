// Headings of figures by which the report knows the rows of a curve.

export const NEEDLE_WIDTH = 'needle width';
export const FOUND_RATE = 'found rate';
