// Writes a PNG row by row, so that it may be larger than any canvas.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const UP = 2;                   // the filter: the difference between a byte and the one above it

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n >>> 0;
});

function crc(...parts) {
    let sum = 0xffffffff;
    for (const part of parts) for (const byte of part) sum = TABLE[(sum ^ byte) & 255] ^ (sum >>> 8);
    return (sum ^ 0xffffffff) >>> 0;
}

function number(value) {
    return Uint8Array.of(value >>> 24, value >>> 16, value >>> 8, value);
}

function chunk(name, content) {
    const kind = new TextEncoder().encode(name);
    return [number(content.length), kind, content, number(crc(kind, content))];
}

export class PngWriter {
    constructor(height, width) {
        this.width = width;
        this.above = new Uint8Array(3 * width);
        this.parts = [Uint8Array.from(SIGNATURE),
            ...chunk('IHDR', Uint8Array.of(...number(width), ...number(height), 8, 2, 0, 0, 0)),
            ...chunk('sRGB', Uint8Array.of(0))];
        const compressor = new CompressionStream('deflate');
        this.writer = compressor.writable.getWriter();
        this.collected = this.collect(compressor.readable.getReader());
    }

    async collect(reader) {
        for (;;) {
            const { done, value } = await reader.read();
            if (done) return;
            this.parts.push(...chunk('IDAT', value));
        }
    }

    /** Write rows of RGB bytes. */
    async write(rows) {
        const wide = 3 * this.width, high = rows.length / wide, filtered = new Uint8Array(high * (wide + 1));
        for (let y = 0, to = 0; y < high; y++) {
            const row = rows.subarray(y * wide, (y + 1) * wide);
            filtered[to++] = UP;
            for (let k = 0; k < wide; k++) filtered[to++] = row[k] - this.above[k];
            this.above = row;
        }
        this.above = this.above.slice();
        await this.writer.write(filtered);
    }

    /** The whole file, a Blob. */
    async finish() {
        await this.writer.close();
        await this.collected;
        return new Blob([...this.parts, ...chunk('IEND', new Uint8Array(0))], { type: 'image/png' });
    }

    abort() {
        this.writer.abort().catch(() => {});
        this.collected.catch(() => {});
    }
}
