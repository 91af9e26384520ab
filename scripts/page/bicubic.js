// Enlarges the photo by bicubic interpolation, at once: on the graphics card if possible, otherwise in JavaScript.
//
// Keys' kernel with a = -1/2, and the photo mirrored at its border, as in MATLAB and in models/bicubic.py.

const VERTEX = `#version 300 es
void main() {           // one triangle that covers the canvas
    gl_Position = vec4(gl_VertexID == 1 ? 3. : -1., gl_VertexID == 2 ? 3. : -1., 0., 1.);
}`;

const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
uniform highp sampler2D photo;
uniform ivec2 photoSize;    // (width, height), in LR pixels
uniform vec2 canvas;        // its size (width, height), in device pixels
uniform vec2 shown, first;  // size of the whole photo, and its origin on the canvas, in device pixels
uniform vec2 whole, rest;   // where the canvas's first pixel lies, in LR pixels
uniform vec2 stride;        // from one device pixel to the next, in LR pixels
out vec4 colour;

vec4 weights(float t) {
    float u = 1. - t;
    return vec4(t * u * u * -.5, 1. + t * t * (1.5 * t - 2.5), 1. + u * u * (1.5 * u - 2.5), u * t * t * -.5);
}

int mirrored(int i, int n) {
    i = i < 0 ? -1 - i : i;
    return clamp(i < n ? i : 2 * n - 1 - i, 0, n - 1);
}

void main() {
    vec2 at = vec2(gl_FragCoord.x - .5, canvas.y - gl_FragCoord.y - .5);
    if (any(lessThan(at, first)) || any(greaterThanEqual(at, first + shown))) {
        colour = vec4(0.);
        return;
    }
    vec2 place = rest + at * stride;
    vec2 below = floor(place);
    if (max(stride.x, stride.y) > 1.) {
        colour = textureLod(photo, (whole + place + .5) / vec2(photoSize), log2(max(stride.x, stride.y)));
    } else {
        vec4 wx = weights(place.x - below.x), wy = weights(place.y - below.y);
        ivec2 pixel = ivec2(whole + below);
        vec4 sum = vec4(0.);
        for (int j = 0; j < 4; j++) {
            vec4 row = vec4(0.);
            for (int i = 0; i < 4; i++)
                row += wx[i] * texelFetch(photo, ivec2(mirrored(pixel.x + i - 1, photoSize.x),
                                                       mirrored(pixel.y + j - 1, photoSize.y)), 0);
            sum += wy[j] * row;
        }
        colour = sum;
    }
    colour = vec4(clamp(colour.rgb, 0., 1.), 1.);
}`;

/** What draws bicubic into a canvas: `load(photo)`, then `draw(view)`. */
export function bicubic(canvas) {
    const gl = canvas.getContext('webgl2', { antialias: false, alpha: true, preserveDrawingBuffer: true });
    return gl ? new OnGraphicsCard(gl, canvas) : new InProgram(canvas);
}

class OnGraphicsCard {
    constructor(gl, canvas) {
        this.gl = gl;
        this.canvas = canvas;
        this.prepare();
        canvas.addEventListener('webglcontextlost', event => event.preventDefault());
        canvas.addEventListener('webglcontextrestored', () => {
            this.prepare();
            if (this.photo) this.load(this.photo);
            if (this.view) this.draw(this.view);
        });
    }

    prepare() {
        const gl = this.gl, program = gl.createProgram();
        for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
            const shader = gl.createShader(type);
            gl.shaderSource(shader, source);
            gl.compileShader(shader);
            gl.attachShader(program, shader);
        }
        gl.linkProgram(program);
        gl.useProgram(program);
        this.program = program;
    }

    /** Whether the photo, `{ height, width, pixels }`, could be loaded: it may be too large for a texture. */
    load(photo) {
        const gl = this.gl;
        if (Math.max(photo.height, photo.width) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return false;
        this.photo = photo;
        gl.deleteTexture(this.texture);
        this.texture = gl.createTexture();
        gl.bindTexture(gl.TEXTURE_2D, this.texture);
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA8, photo.width, photo.height, 0, gl.RGBA, gl.UNSIGNED_BYTE,
            new Uint8Array(photo.pixels.buffer));
        gl.generateMipmap(gl.TEXTURE_2D);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
        return gl.getError() === gl.NO_ERROR;
    }

    draw(view) {
        const gl = this.gl, { photo, size, origin, canvas } = view;
        this.view = view;
        const uniform = (name, x, y) => gl.uniform2f(gl.getUniformLocation(this.program, name), x, y);
        const stride = { x: photo.width / size.width, y: photo.height / size.height };
        const at = { x: (origin.left + 0.5) * stride.x - 0.5, y: (origin.top + 0.5) * stride.y - 0.5 };
        gl.viewport(0, 0, canvas.width, canvas.height);
        gl.uniform2i(gl.getUniformLocation(this.program, 'photoSize'), photo.width, photo.height);
        uniform('canvas', canvas.width, canvas.height);
        uniform('shown', size.width, size.height);
        uniform('first', -origin.left, -origin.top);
        uniform('whole', Math.floor(at.x), Math.floor(at.y));
        uniform('rest', at.x - Math.floor(at.x), at.y - Math.floor(at.y));
        uniform('stride', stride.x, stride.y);
        gl.drawArrays(gl.TRIANGLES, 0, 3);
    }
}

class InProgram {
    constructor(canvas) {
        this.context = canvas.getContext('2d');
    }

    load(photo) {
        this.photo = photo;
        this.small = new OffscreenCanvas(photo.width, photo.height);
        this.small.getContext('2d').putImageData(new ImageData(photo.pixels, photo.width, photo.height), 0, 0);
        return true;
    }

    draw(view) {
        const { origin, size, canvas, seen } = view;
        this.context.clearRect(0, 0, canvas.width, canvas.height);
        if (view.scale < 1) {
            this.context.imageSmoothingQuality = 'high';
            this.context.drawImage(this.small, -origin.left, -origin.top, size.width, size.height);
        } else {
            this.context.putImageData(enlarged(this.photo, size, seen), seen.left - origin.left, seen.top - origin.top);
        }
    }
}

/** The part `seen` of a photo at `size`, as ImageData: interpolated along rows first, then along columns. */
export function enlarged(photo, size, seen) {
    const rows = taps(photo.height, size.height, seen.top, seen.bottom);
    const columns = taps(photo.width, size.width, seen.left, seen.right);
    const wide = seen.right - seen.left, out = new ImageData(wide, seen.bottom - seen.top), made = new Map();
    const widened = y => {
        if (!made.has(y)) {
            const row = new Float32Array(3 * wide), from = photo.pixels, start = 4 * y * photo.width;
            for (let x = 0, k = 0; x < wide; x++, k += 4) {
                for (let c = 0; c < 3; c++) {
                    let sum = 0;
                    for (let tap = k; tap < k + 4; tap++)
                        sum += columns.weight[tap] * from[start + 4 * columns.index[tap] + c];
                    row[3 * x + c] = sum;
                }
            }
            made.set(y, row);
        }
        return made.get(y);
    };
    for (let y = 0, to = 0; y < out.height; y++) {
        const [a, b, c, d] = [0, 1, 2, 3].map(tap => widened(rows.index[4 * y + tap]));
        const [p, q, r, s] = rows.weight.subarray(4 * y, 4 * y + 4);
        for (let k = 0; k < 3 * wide; k += 3, to += 4) {
            for (let i = 0; i < 3; i++)                 // ImageData rounds to the nearest and clamps
                out.data[to + i] = p * a[k + i] + q * b[k + i] + r * c[k + i] + s * d[k + i];
            out.data[to + 3] = 255;
        }
    }
    return out;
}

/** The four LR pixels that each of the output pixels `first` to `last - 1` of `n` is made of, and their weights. */
function taps(nLr, n, first, last) {
    const index = new Int32Array(4 * (last - first)), weight = new Float32Array(4 * (last - first));
    for (let i = first, k = 0; i < last; i++, k += 4) {
        const place = (i + 0.5) * nLr / n - 0.5, below = Math.floor(place), t = place - below, u = 1 - t;
        weight.set([t * u * u * -0.5, 1 + t * t * (1.5 * t - 2.5), 1 + u * u * (1.5 * u - 2.5), u * t * t * -0.5], k);
        for (let tap = 0; tap < 4; tap++) {
            let at = below - 1 + tap;
            at = at < 0 ? -1 - at : at;
            index[k + tap] = Math.min(Math.max(at < nLr ? at : 2 * nLr - 1 - at, 0), nLr - 1);
        }
    }
    return { index, weight };
}
