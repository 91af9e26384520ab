// The model's rendering of what is visible: the worker renders one piece at a time, from the middle outwards.

import { contains, empty, intersection, pieces } from './tiles.js';

const KEPT = 4;             // how many canvases full of pieces are kept, visible or not
const same = (a, b) => a?.height === b.height && a?.width === b.width;

export class Sharp {
    /**
     * `client`: the worker; `changed(state)` is called with { done, all } when pieces arrive or others are wanted;
     * `failed(error)` when one fails.
     */
    constructor(client, canvas, changed, failed) {
        Object.assign(this, { client, canvas, changed, failed, queue: [], ready: new Map(), encoded: [], later: [] });
        this.context = canvas.getContext('2d');
    }

    /** Forget all pieces: the photo or the model is another one. */
    forget() {
        this.ready.clear();
        this.encoded = [];
        this.queue = [];
        this.turn = (this.turn ?? 0) + 1;
        this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    }

    /** Show what there is of a view; `wanted`: and render what is not there. */
    show(view, wanted) {
        const { size, seen, seenLr, photo, origin } = view;
        if (!same(this.size, size)) this.ready.clear();
        this.size = size;
        this.prune(seen);
        this.origin = origin;
        this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
        for (const piece of this.ready.values()) this.draw(piece);
        this.queue = [];
        this.all = 0;
        if (wanted) {
            const all = pieces(photo, size, seen, seenLr, view.scale);
            this.seenLr = seenLr;
            this.queue = all.filter(({ key, output }) => {
                const there = [this.ready.get(key), this.underWay(key)];
                return !there.some(piece => piece && contains(piece.output, output));
            });
            this.all = all.length;
        }
        this.tell();
        this.work();
    }

    /** The piece that the worker renders just now, if it is this one of the size that is shown. */
    underWay(key) {
        return this.piece?.key === key && same(this.piece.size, this.size) && this.piece.turn === this.turn && this.piece;
    }

    /** Drop pieces that are out of sight once they are many times as many pixels as the canvas has. */
    prune(seen) {
        let pixels = 0;
        for (const [key, { output, image }] of [...this.ready].reverse()) {
            pixels += image.width * image.height;
            if (pixels > KEPT * this.canvas.width * this.canvas.height && empty(intersection(output, seen)))
                this.ready.delete(key);
        }
    }

    /** Work that waits until all that is seen is rendered: `later(piece)` is a promise of the worker's answer. */
    afterwards(piece) {
        return new Promise((resolve, reject) => {
            this.later.push({ piece, resolve, reject });
            this.work();
        });
    }

    tell() {
        this.changed({ done: this.all - this.queue.length - (this.piece && this.underWay(this.piece.key) ? 1 : 0), all: this.all });
    }

    async work() {
        if (this.busy) return;
        this.busy = true;
        while (this.queue.length || this.later.length) {
            if (!this.queue.length) {
                const { piece, resolve, reject } = this.later.shift();
                await this.client.call('render', piece).then(resolve, reject);
                continue;
            }
            const encoded = this.queue.findIndex(({ lr }) => this.encoded.some(part => contains(part, lr)));
            const [piece] = this.queue.splice(Math.max(encoded, 0), 1);
            const { size, seenLr, turn } = this;
            this.piece = Object.assign(piece, { size, turn });
            try {
                const { pixels, encoded } = await this.client.call('render', {
                    lr: piece.lr, output: piece.output, size, seenLr });
                if (turn === this.turn) {
                    this.encoded = encoded;
                    if (same(this.size, size)) {
                        piece.image = new ImageData(pixels, piece.output.right - piece.output.left);
                        this.ready.set(piece.key, piece);
                        this.draw(piece);
                    }
                }
            } catch (error) {
                if (turn === this.turn) {
                    this.queue = [];
                    this.all = 0;
                    this.failed(error);
                }
            }
            this.piece = undefined;
            this.tell();
        }
        this.busy = false;
        this.tell();
    }

    draw({ image, output }) {
        this.context.putImageData(image, output.left - this.origin.left, output.top - this.origin.top);
    }
}
