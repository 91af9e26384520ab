// The worker: loads models, and renders one piece after the other for the page.

import { Engine } from './engine.js';

const KEPT = 384e6;             // bytes of encoded rectangles, on a machine of 8 GB or more
let engine, photo, ort, backend, waiting = Promise.resolve();

onmessage = ({ data: { id, task, ...given } }) => {
    waiting = waiting.then(async () => {
        try {
            const { result, transfer } = await tasks[task](given);
            postMessage({ id, result }, transfer ?? []);
        } catch (error) {
            postMessage({ id, error: String(error?.message ?? error), memory: isMemory(error) });
        }
    });
};

const tasks = {
    /** Load the model in the folder `url`; `wanted` is 'webgpu', 'wasm' or nothing, `threads` a number or nothing. */
    async load({ url, wanted, threads }) {
        await engine?.release();
        engine = undefined;
        const [{ told, files }] = await Promise.all([downloaded(url), ort ?? choose(wanted, threads)]);
        let sessions;
        try {
            sessions = await created(files);
        } catch (error) {
            if (backend !== 'webgpu') throw error;
            await start('wasm', threads);                           // the graphics card cannot run the model after all
            sessions = await created(files);
        }
        const memory = Math.min((navigator.deviceMemory ?? 8) / 8, 1);
        engine = new Engine(ort, sessions, told, KEPT * memory, memory < 0.5 ? 160 : 256);
        if (photo) engine.take(photo);
        return { result: { backend, threads: ort.env.wasm.numThreads, told } };
    },

    async photo(given) {
        photo = given.photo;
        engine?.take(photo);
        return { result: true };
    },

    /** Render a piece, see Engine.render: its pixels, RGBA, and which rectangles are encoded by now. */
    async render(piece) {
        const rgb = await engine.render(piece);
        const pixels = new Uint8ClampedArray(rgb.length / 3 * 4);       // rounds to the nearest and clamps
        for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
            for (let c = 0; c < 3; c++) pixels[to + c] = 255 * rgb[from + c];
            pixels[to + 3] = 255;
        }
        return { result: { pixels, encoded: engine.encoded }, transfer: [pixels.buffer] };
    },
};

/** A model's description, and the bytes of its graphs by name. */
async function downloaded(url) {
    const told = await (await got(`${url}/model.json`)).json();
    const files = await Promise.all(Object.entries(told.graphs).map(async ([name, { file }]) =>
        [name, new Uint8Array(await (await got(`${url}/${file}`)).arrayBuffer())]));
    return { told, files: Object.fromEntries(files) };
}

/** Load onnxruntime for what is `wanted`, or else for the graphics card if there is one. */
async function choose(wanted, threads) {
    await start(wanted === 'wasm' ? 'wasm' : await graphicsCard(wanted) ? 'webgpu' : 'wasm', threads);
}

/** Whether there is WebGPU on a graphics card, or, where it is `wanted`, by a program that stands in for one. */
async function graphicsCard(wanted) {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    return adapter && (wanted === 'webgpu' || !(adapter.isFallbackAdapter ?? adapter.info?.isFallbackAdapter));
}

/** Load onnxruntime for the graphics card or for the processor. */
async function start(chosen, threads) {
    backend = chosen;
    ort = await import(backend === 'webgpu' ? './ort/ort.webgpu.min.mjs' : './ort/ort.wasm.min.mjs');
    ort.env.wasm.wasmPaths = new URL('./ort/', import.meta.url).href;
    ort.env.wasm.numThreads = threads
        || (self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1);
    ort.env.logLevel = 'error';
}

async function created(files) {
    const sessions = {}, executionProviders = backend === 'webgpu' ? ['webgpu', 'wasm'] : ['wasm'];
    for (const [name, file] of Object.entries(files))
        sessions[name] = await ort.InferenceSession.create(file, { executionProviders, logSeverityLevel: 3 });
    return sessions;
}

async function got(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status}`);
    return response;
}

function isMemory(error) {
    return error instanceof RangeError || /memory|bad_alloc|allocat/i.test(String(error?.message ?? error));
}
