// Renders the whole photo at any size and writes it as a PNG, some rows at a time.

import { PngWriter } from './png.js';
import { CELL, outputOf, pieces } from './tiles.js';

const HELD = 96e6;              // about how many bytes of rows are held before they are written
export const MOST = 1e9;        // output pixels

/**
 * The PNG, a Blob, of `photo` at `size`. `render(piece)`: a promise of a piece's pixels, see the worker; `progress`
 * is called with the share that is done; `signal` can abort it.
 */
export async function save(photo, size, render, progress, signal) {
    const writer = new PngWriter(size.height, size.width), scale = Math.max(size.height / photo.height,
        size.width / photo.width);
    const most = Math.max(1, Math.floor(HELD * photo.height / (3 * size.width * size.height) / CELL)) * CELL;
    try {
        for (let top = 0; top < photo.height; top += Math.min(most, 256)) {
            const band = { top, left: 0, bottom: Math.min(top + Math.min(most, 256), photo.height), right: photo.width };
            const output = outputOf(band, photo, size), rows = new Uint8Array(3 * size.width
                * (output.bottom - output.top));
            const all = pieces(photo, size, output, band, scale).sort((a, b) => a.output.left - b.output.left);
            for (const [number, piece] of all.entries()) {
                signal.throwIfAborted();
                const { pixels } = await render({ lr: piece.lr, output: piece.output, size, seenLr: band });
                put(pixels, piece.output, rows, output.top, size.width);
                progress((top + (band.bottom - top) * (number + 1) / all.length) / photo.height);
            }
            await writer.write(rows);
        }
        signal.throwIfAborted();
        return await writer.finish();
    } catch (error) {
        writer.abort();
        throw error;
    }
}

/** Write RGBA pixels of a piece into rows of RGB. */
function put(pixels, output, rows, top, width) {
    let from = 0;
    for (let y = output.top; y < output.bottom; y++) {
        let to = 3 * ((y - top) * width + output.left);
        for (let x = output.left; x < output.right; x++, from += 4) {
            rows[to++] = pixels[from];
            rows[to++] = pixels[from + 1];
            rows[to++] = pixels[from + 2];
        }
    }
}
