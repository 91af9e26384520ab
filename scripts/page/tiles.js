// Which parts of a photo are encoded and decoded at a time. Rectangles are { top, left, bottom, right }; bottom and
// right are exclusive.

import { firstOutput } from './grid.js';

export const CELL = 64;         // LR pixels to a side of the cells that make up encoded rectangles
const SIDE = 256;               // about how many LR pixels to a side are encoded at a time
const PIECE = 192;              // output pixels to a side that are decoded at a time; small pieces take long to begin

export const empty = part => part.bottom <= part.top || part.right <= part.left;

export const contains = (outer, inner) => outer.top <= inner.top && outer.left <= inner.left
    && outer.bottom >= inner.bottom && outer.right >= inner.right;

export const intersection = (a, b) => ({ top: Math.max(a.top, b.top), left: Math.max(a.left, b.left),
    bottom: Math.min(a.bottom, b.bottom), right: Math.min(a.right, b.right) });

/** A rectangle with `margin` more pixels on each side, within `photo` ({ height, width }). */
export const widened = (part, margin, photo) => intersection({ top: part.top - margin, left: part.left - margin,
    bottom: part.bottom + margin, right: part.right + margin }, { top: 0, left: 0, bottom: photo.height,
    right: photo.width });

/** How many LR pixels to a side are decoded at a time at a scale: a power of two, CELL at most. */
export function pieceSide(scale) {
    let side = CELL;
    while (side > 1 && side * scale > PIECE) side /= 2;
    return side;
}

/** The output pixels, of `size`, that belong to a rectangle of LR pixels. */
export const outputOf = (part, photo, size) => ({
    top: firstOutput(part.top, photo.height, size.height), left: firstOutput(part.left, photo.width, size.width),
    bottom: firstOutput(part.bottom, photo.height, size.height),
    right: firstOutput(part.right, photo.width, size.width) });

/**
 * The pieces, { key, lr, output }, in which the output pixels `seen` of a photo at `size` are decoded, from the middle
 * outwards. `lr` are the LR pixels of a piece, `output` those of its output pixels that are seen.
 */
export function pieces(photo, size, seen, seenLr, scale) {
    const side = pieceSide(scale), found = [];
    const middle = { y: (seen.top + seen.bottom) / 2, x: (seen.left + seen.right) / 2 };
    for (let top = Math.floor(seenLr.top / side) * side; top < seenLr.bottom; top += side) {
        for (let left = Math.floor(seenLr.left / side) * side; left < seenLr.right; left += side) {
            const lr = widened({ top, left, bottom: top + side, right: left + side }, 0, photo);
            const output = intersection(outputOf(lr, photo, size), seen);
            if (empty(output)) continue;
            const away = Math.hypot((output.top + output.bottom) / 2 - middle.y,
                (output.left + output.right) / 2 - middle.x);
            found.push({ key: `${top},${left}`, lr, output, away });
        }
    }
    return found.sort((a, b) => a.away - b.away);
}

/**
 * The rectangle to encode for the LR pixels `wanted`, which lie in one cell: about `side` to a side, made of visible
 * cells (`seenLr`) that are in none of the rectangles `encoded` yet.
 */
export function toEncode(wanted, seenLr, encoded, photo, side = SIDE) {
    const cellAt = (row, column) => widened({ top: row * CELL, left: column * CELL, bottom: (row + 1) * CELL,
        right: (column + 1) * CELL }, 0, photo);
    const missing = (row, column) => !encoded.some(part => contains(part, cellAt(row, column)));
    const rows = [Math.floor(seenLr.top / CELL), Math.ceil(seenLr.bottom / CELL)];
    const columns = [Math.floor(seenLr.left / CELL), Math.ceil(seenLr.right / CELL)];
    const row = Math.floor(wanted.top / CELL), column = Math.floor(wanted.left / CELL);
    let left = column, right = column + 1, top = row, bottom = row + 1;
    while (left > columns[0] && missing(row, left - 1)) left--;
    while (right < columns[1] && missing(row, right)) right++;
    const allMissing = at => Array.from({ length: right - left }, (_, k) => missing(at, left + k)).every(Boolean);
    while (top > rows[0] && allMissing(top - 1)) top--;
    while (bottom < rows[1] && allMissing(bottom)) bottom++;
    [top, bottom] = share(top, bottom, row, side / CELL);
    [left, right] = share(left, right, column, side / CELL);
    return widened({ top: top * CELL, left: left * CELL, bottom: bottom * CELL, right: right * CELL }, 0, photo);
}

/** The part that contains `at` when `first` to `last - 1` is divided evenly into parts of about `each`. */
function share(first, last, at, each) {
    const parts = Math.max(1, Math.round((last - first) / each));
    const edge = k => first + Math.floor(k * (last - first) / parts);
    let part = 0;
    while (edge(part + 1) <= at) part++;
    return [edge(part), edge(part + 1)];
}
