// The visible part of a photo: a window of `canvas` device pixels at a scale. Sizes are { height, width }.

import { nearest } from './grid.js';

export const LARGEST = 64;      // the largest scale, unless fitting a small photo into the window takes more

const AXES = [['height', 'y', 'top'], ['width', 'x', 'left']];
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class View {
    /** `photo` and `canvas` are sizes; the whole photo is seen at first. */
    constructor(photo, canvas) {
        this.photo = photo;
        this.canvas = canvas;
        this.fit();
    }

    /** The scale at which the whole photo just fits. */
    get fitting() {
        return Math.min(...AXES.map(([side]) => this.canvas[side] / this.photo[side]));
    }

    get limits() {
        return { least: Math.min(1, this.fitting), most: Math.max(LARGEST, 4 * this.fitting) };
    }

    /** The whole photo's size in device pixels at this scale. */
    get size() {
        return { height: Math.max(1, Math.round(this.photo.height * this.scale)),
            width: Math.max(1, Math.round(this.photo.width * this.scale)) };
    }

    /** Which device pixel of the whole photo is at the canvas's first row and column; negative where there is room. */
    get origin() {
        const origin = {};
        for (const [side, axis, edge] of AXES) {
            const size = this.size[side], canvas = this.canvas[side];
            origin[edge] = size <= canvas ? -Math.floor((canvas - size) / 2)
                : clamp(Math.round(this.centre[axis] / this.photo[side] * size - canvas / 2), 0, size - canvas);
        }
        return origin;
    }

    /** The device pixels of the whole photo that are seen, `bottom` and `right` exclusive. */
    get seen() {
        const { top, left } = this.origin, size = this.size;
        return { top: Math.max(top, 0), left: Math.max(left, 0),
            bottom: Math.min(top + this.canvas.height, size.height),
            right: Math.min(left + this.canvas.width, size.width) };
    }

    /** The LR pixels that these belong to. */
    get seenLr() {
        const seen = this.seen, size = this.size;
        return { top: nearest(seen.top, this.photo.height, size.height),
            left: nearest(seen.left, this.photo.width, size.width),
            bottom: nearest(seen.bottom - 1, this.photo.height, size.height) + 1,
            right: nearest(seen.right - 1, this.photo.width, size.width) + 1 };
    }

    fit() {
        this.scale = this.fitting;
        this.centre = { y: this.photo.height / 2, x: this.photo.width / 2 };
    }

    get fits() {
        return this.scale === this.fitting;
    }

    /** Zoom so that what is at `point` ({ y, x }, device pixels of the canvas; its middle if left out) stays there. */
    zoom(scale, point = { y: this.canvas.height / 2, x: this.canvas.width / 2 }) {
        const { least, most } = this.limits;
        const before = this.scale;
        this.scale = clamp(scale, least, most);
        for (const [side, axis] of AXES) {
            const away = point[axis] - this.canvas[side] / 2;
            this.centre[axis] += away / before - away / this.scale;
        }
        this.settle();
    }

    /** Where the middle of the canvas is in the photo, whose height and width count 1. */
    get place() {
        const { origin, size, canvas } = this;
        return { y: (origin.top + canvas.height / 2) / size.height, x: (origin.left + canvas.width / 2) / size.width };
    }

    /** Show a `place` at a scale. */
    show({ scale, y = 0.5, x = 0.5 }) {
        this.zoom(scale);
        this.centre = { y: y * this.photo.height, x: x * this.photo.width };
        this.settle();
    }

    /** Move what is seen by device pixels. */
    move(y, x) {
        this.centre.y += y / this.scale;
        this.centre.x += x / this.scale;
        this.settle();
    }

    resize(canvas) {
        const fitted = this.fits;
        this.canvas = canvas;
        if (fitted) this.fit();
        else this.zoom(this.scale);
    }

    /** Keep the window inside the photo, and in its middle along an axis that it covers. */
    settle() {
        for (const [side, axis] of AXES) {
            const half = this.canvas[side] / 2 / this.scale, photo = this.photo[side];
            this.centre[axis] = 2 * half >= photo ? photo / 2 : clamp(this.centre[axis], half, photo - half);
        }
    }
}
