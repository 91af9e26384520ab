// Where output pixels lie on the pixels of the photo (LR pixels), one axis at a time, as in models/rendering/grid.py.

const FULLEST = 32;     // the most output pixels of an LR pixel that are decoded as one block, along an axis

/** The LR pixel, of `nLr`, that output pixel `i` of `n` belongs to: (2 i + 1) nLr / (2 n) - 1/2, half to even. */
export function nearest(i, nLr, n) {
    const doubled = (2 * i + 1) * nLr - n;
    const below = Math.floor(doubled / (2 * n));
    const rest = doubled - below * 2 * n;               // whole numbers below 2^53: exact
    return below + (rest > n || (rest === n && Math.abs(below % 2) === 1) ? 1 : 0);
}

/** The first output pixel that belongs to LR pixel `lr` or a later one; `n` if there is none. */
export function firstOutput(lr, nLr, n) {
    let i = Math.min(n, Math.max(0, Math.ceil(lr * n / nLr - 0.5)));
    while (i > 0 && nearest(i - 1, nLr, n) >= lr) i--;
    while (i < n && nearest(i, nLr, n) < lr) i++;
    return i;
}

/**
 * The inputs of `decode` for the output pixels `first` to `last - 1` of an axis: `lr`, the LR pixel of each block,
 * counted from `origin`; `offset`, `most` numbers for each block, in LR pixels; `slot`, where the output pixels are.
 */
export function blocks(nLr, n, first, last, origin = 0, fullest = FULLEST) {
    const found = [];                                   // [LR pixel, first output pixel, how many]
    for (let i = first; i < last;) {
        const lr = nearest(i, nLr, n);
        const end = Math.min(last, firstOutput(lr + 1, nLr, n));
        const parts = Math.ceil((end - i) / fullest);
        for (let k = 0; k < parts; k++) {
            const from = i + Math.floor(k * (end - i) / parts), to = i + Math.floor((k + 1) * (end - i) / parts);
            found.push([lr, from, to - from]);
        }
        i = end;
    }
    const most = Math.max(...found.map(([, , count]) => count));
    const lr = new BigInt64Array(found.length), offset = new Float32Array(found.length * most);
    const slot = new BigInt64Array(last - first);
    found.forEach(([pixel, from, count], block) => {
        lr[block] = BigInt(pixel - origin);
        for (let k = 0; k < count; k++) {
            offset[block * most + k] = ((2 * (from + k) + 1) * nLr - n * (2 * pixel + 1)) / (2 * n);
            slot[from + k - first] = BigInt(block * most + k);
        }
    });
    return { lr, offset, slot, count: found.length, most };
}
