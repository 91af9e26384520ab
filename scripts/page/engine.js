// The model in onnxruntime: encodes rectangles of a photo, keeps their features, and decodes pieces of them.

import { blocks } from './grid.js';
import { contains, toEncode, widened } from './tiles.js';

const SMALLEST = 64;            // LR pixels to a side; a rectangle this small that does not fit into memory is an error

export class Engine {
    /**
     * `ort`: the module; `sessions`: { encode, decode }; `told`: the model's model.json; `most`: how many bytes of
     * encoded rectangles are kept; `side`: LR pixels to a side that are encoded at a time.
     */
    constructor(ort, sessions, told, most, side) {
        Object.assign(this, { ort, sessions, told, most, side, kept: [] });
    }

    /** Take a photo, { height, width, pixels }, whose `pixels` are RGBA. */
    take(photo) {
        this.photo = photo;
        this.kept = [];
    }

    get encoded() {
        return this.kept.map(({ part }) => part);
    }

    async release() {
        this.kept = [];
        await Promise.all(Object.values(this.sessions).map(session => session.release()));
    }

    /**
     * Decode the output pixels `output` of the photo at `size`, which belong to the LR pixels `lr` of one cell, to RGB
     * float32, not clamped. Parts of `seenLr` that are not encoded yet may be encoded on the way.
     */
    async render({ lr, output, size, seenLr }) {
        const from = await this.features(lr, seenLr);
        const { photo, told, ort } = this, aside = told.reads - told.pad;
        const near = widened(lr, Math.max(aside, 0), photo);
        const high = near.bottom - near.top + 2 * told.pad, wide = near.right - near.left + 2 * told.pad;
        const features = new Float32Array(high * wide * from.depth);
        for (let y = 0; y < high; y++) {
            const start = ((near.top - from.at.top + y) * from.wide + near.left - from.at.left) * from.depth;
            features.set(from.data.subarray(start, start + wide * from.depth), y * wide * from.depth);
        }
        const y = blocks(photo.height, size.height, output.top, output.bottom, near.top);
        const x = blocks(photo.width, size.width, output.left, output.right, near.left);
        const whole = data => new ort.Tensor('int64', data, [data.length]);
        const result = await this.sessions.decode.run({
            features: new ort.Tensor('float32', features, [high, wide, from.depth]),
            y: whole(y.lr), x: whole(x.lr), y_slot: whole(y.slot), x_slot: whole(x.slot),
            y_offset: new ort.Tensor('float32', y.offset, [y.count, y.most]),
            x_offset: new ort.Tensor('float32', x.offset, [x.count, x.most]),
            relative_cell: new ort.Tensor('float32', new Float32Array([2 * photo.height / size.height,
                2 * photo.width / size.width]), [2]),
        });
        return result.rgb.data;
    }

    /** The features { data, depth, wide, at } that hold the LR pixels `lr`, `at` being where they begin. */
    async features(lr, seenLr) {
        let found = this.kept.find(({ part }) => contains(part, lr));
        if (found) {
            this.kept.splice(this.kept.indexOf(found), 1);          // the one used last is discarded last
        } else {
            found = await this.encode(this.told.whole_image_only ? widened(lr, Infinity, this.photo)
                : toEncode(lr, seenLr, this.encoded, this.photo, this.side), lr, seenLr);
        }
        this.kept.push(found);
        const bytes = () => this.kept.reduce((sum, { data }) => sum + data.byteLength, 0);
        while (this.kept.length > 1 && bytes() > this.most) this.kept.shift();
        return found;
    }

    async encode(part, lr, seenLr) {
        const { photo, told, ort } = this, tile = widened(part, told.receptive_field, photo);
        const high = tile.bottom - tile.top, wide = tile.right - tile.left, data = new Float32Array(3 * high * wide);
        for (let y = 0, k = 0; y < high; y++) {
            let from = 4 * ((tile.top + y) * photo.width + tile.left);
            for (let x = 0; x < wide; x++, k++, from += 4)
                for (let c = 0; c < 3; c++) data[c * high * wide + k] = photo.pixels[from + c] / 255;
        }
        let result;
        try {
            result = await this.sessions.encode.run({ lr: new ort.Tensor('float32', data, [1, 3, high, wide]) });
        } catch (error) {
            if (this.side <= SMALLEST || told.whole_image_only) throw error;
            this.side /= 2;                                         // out of memory: smaller rectangles need less
            this.kept.splice(0, Math.ceil(this.kept.length / 2));
            return this.encode(toEncode(lr, seenLr, this.encoded, photo, this.side), lr, seenLr);
        }
        return this.trimmed(result.features, part, tile);
    }

    /** Of the features of a tile those that decoding `part` reads. */
    trimmed(features, part, tile) {
        const { told, photo } = this, [, all, depth] = features.dims;
        const at = widened(part, Math.max(told.reads - told.pad, 0), photo);
        const high = at.bottom - at.top + 2 * told.pad, wide = at.right - at.left + 2 * told.pad;
        const data = new Float32Array(high * wide * depth);
        for (let y = 0; y < high; y++) {
            const start = ((at.top - tile.top + y) * all + at.left - tile.left) * depth;
            data.set(features.data.subarray(start, start + wide * depth), y * wide * depth);
        }
        return { part, at, wide, depth, data };
    }
}
