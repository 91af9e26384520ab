// The page: its controls, and the communication between its parts.

import { bicubic } from './bicubic.js';
import { Client } from './client.js';
import { format, parse } from './link.js';
import { MOST as MOST_SAVED, save } from './save.js';
import { Told, read } from './photo.js';
import { Sharp } from './sharp.js';
import { View } from './view.js';

const SETTLED = 120;            // ms without a change of zoom before the model is run
const STEP = 1.25;              // by which the buttons and keys zoom
const FASTEST = 240;            // the most wheel units that count at once
// files compressed with loss, as far as one can tell
const LOSSY = ['image/jpeg', 'image/webp', 'image/avif', 'image/heic', 'image/heif'];

const $ = id => document.getElementById(id);
const stage = $('stage'), options = new URLSearchParams(location.search);
let view, photo, base, sharp, client, offered, split = null, loaded = 0;
let decided = false, lossy = false;         // whether the user or a link has chosen weights; the photo's kind of file
let loading = 0;                // weights that were asked for so far; the last ones count
let taking = 0;                 // photos that were asked for so far; the last one counts
let drawing = false, settling, rest;        // a frame is due; the model is run after `rest` ms
let since;                      // when what is seen last changed, in ms, while it is not sharp

// ---------------------------------------------------------------- showing

/** Draw what is seen in the next frame, then ask the model for it; after `zooming` when that has come to rest. */
function show(zooming = false) {
    if (!view) return;
    clearTimeout(settling);
    settling = true;
    since = performance.now();
    rest = zooming ? SETTLED : 0;
    tellState();
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => {
        drawing = false;
        base.draw(view);
        sharp.show(view, false);
        tellScale();
        settling = setTimeout(ask, rest);
    });
}

/** Ask the model for what is seen. Below x1 nothing is enlarged, and there is nothing for it to do. */
function ask() {
    settling = undefined;
    if (!view) return;
    sharp.show(view, loaded > 0 && view.scale >= 1);
    keepLink();
    tellState();
}

function tellScale() {
    const scale = view.scale;
    if (document.activeElement !== $('scale')) $('scale').value = scale.toFixed(scale < 10 ? 2 : 1);
    $('sharp').setAttribute('aria-label', `The photo, ${photo.width} by ${photo.height} pixels, enlarged `
        + `${scale.toFixed(2)} times`);
}

function tellState(progress = sharp.progress) {
    sharp.progress = progress;
    const waiting = progress && progress.done < progress.all;
    document.documentElement.dataset.sharp = String(Boolean(view && loaded > 0 && !settling && !waiting
        && (progress?.all > 0 || view.scale < 1)));
    if (!view) return;
    const state = loaded < 0 ? 'Bicubic only' : view.scale < 1 ? 'Reduced: zoom in'
        : !loaded ? 'Loading the model' : waiting ? `Sharpening: ${Math.floor(100 * progress.done
            / progress.all)} %` : progress?.all ? 'Sharp' : 'Bicubic';
    $('state').textContent = state;
    if (state === 'Sharp' && !settling && since !== undefined) {
        $('took').textContent = `The last view was sharp after ${((performance.now() - since) / 1000).toFixed(1)} s.`;
        since = undefined;
    }
    // a screen reader announces the final state, not every step
    if (!waiting && !settling && loaded) $('said').textContent = `${state}, x ${view.scale.toFixed(2)}`;
}

function tell(sentence) {
    $('sentence').textContent = sentence;
    $('message').hidden = !sentence;
}

function fitCanvas(entry) {
    const ratio = devicePixelRatio || 1, box = entry?.devicePixelContentBoxSize?.[0];
    // the box is rounded exactly as on the screen, but is that of the real screen where another one is emulated
    const pixels = (side, exact) => Math.max(1, Math.abs(exact - side * ratio) <= 1 ? exact : Math.round(side * ratio));
    const canvas = { height: pixels(stage.clientHeight, box?.blockSize), width: pixels(stage.clientWidth, box?.inlineSize) };
    for (const each of [$('bicubic'), $('sharp')]) Object.assign(each, canvas);
    if (view) {
        view.resize(canvas);
        placeSplit();
        base.draw(view);
        show();
    }
    return canvas;
}

// ---------------------------------------------------------------- photo and model

async function take(blob, said = {}) {
    const number = ++taking;
    let taken;
    try {
        taken = await read(blob);
    } catch (error) {
        if (number === taking) tell(error instanceof Told ? error.message : 'This image could not be read.');
        return;
    }
    if (number !== taking) return;
    $('saving').close();                // which was for the previous photo
    if (!base.load(taken)) {            // too large for the graphics card
        const canvas = $('bicubic').cloneNode();
        $('bicubic').replaceWith(canvas);
        base = bicubic({ addEventListener() {}, getContext: kind => kind === '2d' && canvas.getContext('2d') });
        base.load(taken);
    }
    photo = taken;
    lossy = LOSSY.includes(blob.type);
    if (offered && !decided && suitable() !== $('weights').value) load(suitable());
    view = new View(photo, fitCanvas());
    if (said.scale) view.show(said);
    sharp.forget();
    client?.call('photo', { photo }).catch(failed);
    $('save').disabled = false;
    show();
}

/** Take what was opened, dropped or pasted. */
function choose(blob) {
    tell('');
    take(blob);
}

/** The name of the weights for such files as the photo's, or of the first. */
const suitable = () => (offered.weights.find(entry => entry.for_lossy === lossy) ?? offered.weights[0]).name;

const isOffered = weights => offered.weights.some(({ name }) => name === weights);

function decide() {
    decided = true;
    const clean = $('cleanLabel').hidden ? undefined : Number($('clean').value);
    load($('weights').value, clean);
}

/** Load weights by their name. `clean`: where the dial is to be, if not where it belongs. */
async function load(weights, clean) {
    const number = ++loading;
    const entry = offered.weights.find(({ name }) => name === weights);
    const stops = entry.stops;
    clean ??= entry.clean;
    const stop = stops.reduce((a, b) => Math.abs(b.clean - clean) < Math.abs(a.clean - clean) ? b : a);
    $('weights').value = entry.name;
    $('cleanLabel').hidden = stops.length < 2;
    $('clean').value = stop.clean;
    loaded = 0;
    tellState();
    try {
        const { backend, threads, told } = await client.call('load', { url: new URL(stop.folder, location.href).href,
            wanted: options.get('backend'), threads: Number(options.get('threads')) });
        if (number !== loading) return;
        loaded = 1;
        $('facts').textContent = `${told.name}: ${told.parameters.toLocaleString('en')} parameters, trained for x`
            + `${told.scale_range.join(' to x')}; on ${backend === 'webgpu' ? 'the graphics card (WebGPU)'
                : `the processor (WebAssembly, ${threads} thread${threads === 1 ? '' : 's'})`}.`
            + (told.licence ? ` Licence: ${told.licence}.` : '');
        document.documentElement.dataset.backend = backend;
    } catch (error) {
        if (number === loading) failed(error);
        return;
    }
    sharp.forget();
    show();
}

/** The model cannot go on; the bicubic rendering remains. */
function failed(error) {
    if (!error.memory) loaded = -1;
    tell(error.memory ? 'There is not enough memory for the model. Close other tabs, or choose a smaller photo.'
        : `The model cannot run in this browser (${error.message}). What you see is bicubic interpolation.`);
    tellState();
}

// ---------------------------------------------------------------- moving

function pointOf(event) {
    const box = stage.getBoundingClientRect(), ratio = devicePixelRatio || 1;
    return { y: (event.clientY - box.top) * ratio, x: (event.clientX - box.left) * ratio };
}

function zoomBy(factor, point) {
    if (!view) return;
    view.zoom(view.scale * factor, point);
    show(true);
}

function fit() {
    if (!view) return;
    view.fit();
    show(true);
}

const pointers = new Map();

function pointerDown(event) {
    if (!view || event.button > 0 || event.target.closest('#split')) return;
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, pointOf(event));
}

function pointerMove(event) {
    const before = pointers.get(event.pointerId);
    if (!before || !view) return;
    const now = pointOf(event);
    if (pointers.size === 1) {
        view.move(before.y - now.y, before.x - now.x);
        show();
    } else if (pointers.size === 2) {
        const [, other] = [...pointers].find(([id]) => id !== event.pointerId);
        const apart = point => Math.max(1, Math.hypot(point.y - other.y, point.x - other.x));
        const middle = { y: (now.y + other.y) / 2, x: (now.x + other.x) / 2 };
        view.move((before.y - now.y) / 2, (before.x - now.x) / 2);
        view.zoom(view.scale * apart(now) / apart(before), middle);
        show(true);
    }
    pointers.set(event.pointerId, now);
}

function keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches('input, select')
        || document.querySelector('dialog[open]')) return;
    const far = Math.round((view?.canvas.height ?? 0) / 8), moves = {
        ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] };
    const done = { '+': () => zoomBy(STEP), '=': () => zoomBy(STEP), '-': () => zoomBy(1 / STEP), 0: fit,
        c: () => compare(split === null ? 0.5 : null), o: () => $('file').click(), s: openSave };
    if (event.target.id === 'split' && event.key.startsWith('Arrow')) return;
    if (moves[event.key] && view) {
        view.move(...moves[event.key]);
        show();
    } else if (done[event.key.toLowerCase()]) {
        done[event.key.toLowerCase()]();
    } else {
        return;
    }
    event.preventDefault();
}

// ---------------------------------------------------------------- comparing, link

/** Show bicubic left of `share` of the width, or nowhere for null. */
function compare(share) {
    split = share === null ? null : Math.min(Math.max(share, 0), 1);
    $('compare').setAttribute('aria-pressed', String(split !== null));
    placeSplit();
    keepLink();
}

function placeSplit() {
    const line = $('split');
    line.hidden = split === null;
    // a whole number of device pixels, so that no column is a mixture of both
    const at = split === null || !view ? 0 : Math.round(split * view.canvas.width) / view.canvas.width * 100;
    $('sharp').style.clipPath = split === null ? '' : `inset(0 0 0 ${at}%)`;
    line.style.left = `${at}%`;
    line.setAttribute('aria-valuenow', Math.round(at));
    line.setAttribute('aria-valuetext', `${Math.round(at)} percent of the width is bicubic`);
}

function moveSplit(event) {
    if (event.type === 'keydown') {
        const step = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[event.key];
        if (step === undefined) return;
        event.preventDefault();
        compare(split + step);
    } else if (event.type === 'pointerdown') {
        $('split').setPointerCapture(event.pointerId);
        event.stopPropagation();
    } else if ($('split').hasPointerCapture(event.pointerId)) {
        const box = stage.getBoundingClientRect();
        compare((event.clientX - box.left) / box.width);
    }
}

function keepLink() {
    if (!view) return;
    const said = { split: split ?? undefined };
    if (decided) said.weights = $('weights').value;
    if (decided && !$('cleanLabel').hidden) said.clean = Number($('clean').value);
    if (!view.fits) Object.assign(said, { scale: view.scale, ...view.place });
    history.replaceState(null, '', format(said));
}

function followLink() {
    const said = parse(location.hash);
    if (!view) return;
    compare(said.split ?? null);
    if (offered && isOffered(said.weights)) {
        decided = true;
        const dial = said.clean ?? Number($('clean').value);
        if (said.weights !== $('weights').value || dial !== Number($('clean').value)) load(said.weights, said.clean);
    }
    view.fit();
    if (said.scale) view.show(said);
    show(true);
}

// ---------------------------------------------------------------- saving

let saving;

function openSave() {
    if (!photo || $('saving').open) return;
    $('saveScale').value = String(+Math.max(view.scale, 2).toFixed(2));
    sizesFrom('saveScale');
    $('saving').showModal();
    $('saveScale').focus();
    $('saveScale').select();
}

/** Set the other fields from the one that was changed, and say what that means. */
function sizesFrom(field) {
    const value = Number($(field).value.replace(',', '.'));
    const scale = field === 'saveScale' ? value : value / (field === 'saveWidth' ? photo.width : photo.height);
    if (scale > 0 && Number.isFinite(scale)) {
        if (field !== 'saveScale') $('saveScale').value = String(+scale.toFixed(4));
        if (field !== 'saveWidth') $('saveWidth').value = Math.round(photo.width * scale);
        if (field !== 'saveHeight') $('saveHeight').value = Math.round(photo.height * scale);
    }
    const size = savedSize();
    $('saveNote').textContent = typeof size === 'string' ? size
        : `${size.width} × ${size.height} pixels, ${(size.width * size.height / 1e6).toFixed(1)} million`;
    $('saveStart').disabled = typeof size === 'string' || loaded <= 0;
}

/** The size entered, or a sentence that says what is wrong with it. */
function savedSize() {
    const [height, width] = [$('saveHeight'), $('saveWidth')].map(({ value }) => Number(value));
    if (!(Number.isInteger(height) && Number.isInteger(width)) || height < photo.height || width < photo.width)
        return 'Width and height must be whole numbers, not below those of the photo.';
    if (height * width > MOST_SAVED) return `At most ${MOST_SAVED / 1e6} million pixels can be saved.`;
    return { height, width };
}

async function startSave() {
    const size = savedSize();
    if (typeof size === 'string') return;
    saving = new AbortController();
    saveFields(true);
    $('saveCancel').focus();
    $('saveProgress').hidden = false;
    $('saveProgress').value = 0;
    try {
        const file = await save(photo, size, piece => sharp.afterwards(piece), share => {
            $('saveProgress').value = share;
            $('saveNote').textContent = `${Math.floor(100 * share)} %`;
        }, saving.signal);
        const link = document.createElement('a');
        link.href = URL.createObjectURL(file);
        link.download = `photo_${size.width}x${size.height}.png`;
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 60000);
        $('saving').close();
    } catch (error) {
        if (error.name !== 'AbortError') {
            $('saving').close();
            tell(error.memory || error instanceof RangeError ? 'There is not enough memory to save this size.'
                : `Saving failed (${error.message}).`);
        }
    } finally {
        saving = undefined;
        $('saveProgress').hidden = true;
        saveFields(false);
    }
}

/** Close or open what tells how to save, as one size is saved at a time. */
function saveFields(disabled) {
    for (const field of ['saveScale', 'saveWidth', 'saveHeight', 'saveStart']) $(field).disabled = disabled;
}

// ---------------------------------------------------------------- start

function listen() {
    stage.addEventListener('wheel', event => {
        event.preventDefault();
        const unit = [1, 16, 400][event.deltaMode], turned = Math.max(-FASTEST, Math.min(FASTEST, event.deltaY * unit));
        if (view) zoomBy(Math.exp(-turned * (event.ctrlKey ? 0.01 : 0.002)), pointOf(event));
    }, { passive: false });
    stage.addEventListener('pointerdown', pointerDown);
    stage.addEventListener('pointermove', pointerMove);
    for (const end of ['pointerup', 'pointercancel']) stage.addEventListener(end, event => pointers.delete(event.pointerId));
    stage.addEventListener('dblclick', event => !event.target.closest('#split') && zoomBy(2, pointOf(event)));
    for (const kind of ['pointerdown', 'pointermove', 'keydown']) $('split').addEventListener(kind, moveSplit);
    addEventListener('keydown', keyDown);
    addEventListener('hashchange', followLink);
    new ResizeObserver(([entry]) => fitCanvas(entry)).observe(stage);

    $('open').addEventListener('click', () => $('file').click());
    $('file').addEventListener('change', ({ target }) => {
        if (target.files[0]) choose(target.files[0]);
        target.value = '';
    });
    addEventListener('dragover', event => {
        event.preventDefault();
        $('drop').hidden = false;
    });
    addEventListener('dragleave', event => {
        if (!event.relatedTarget) $('drop').hidden = true;
    });
    addEventListener('drop', event => {
        event.preventDefault();
        $('drop').hidden = true;
        if (event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
    });
    addEventListener('paste', event => {
        const file = [...event.clipboardData.files][0];
        if (file) choose(file);
    });

    $('in').addEventListener('click', () => zoomBy(STEP));
    $('out').addEventListener('click', () => zoomBy(1 / STEP));
    $('fit').addEventListener('click', fit);
    $('compare').addEventListener('click', () => compare(split === null ? 0.5 : null));
    $('scale').addEventListener('change', ({ target }) => {
        const scale = Number(target.value.replace(',', '.').replace(/^x/i, ''));
        if (scale > 0) view?.zoom(scale);
        target.blur();
        show(true);
    });
    $('close').addEventListener('click', () => tell(''));
    $('about').addEventListener('click', () => $('help').showModal());
    $('weights').addEventListener('change', decide);
    $('clean').addEventListener('change', decide);

    $('save').addEventListener('click', openSave);
    for (const field of ['saveScale', 'saveWidth', 'saveHeight'])
        $(field).addEventListener('input', () => sizesFrom(field));
    $('saveStart').addEventListener('click', startSave);
    $('saving').addEventListener('keydown', event => {
        if (event.key === 'Enter' && event.target.matches('input')) {
            event.preventDefault();
            if (!$('saveStart').disabled) startSave();
        }
    });
    $('saveCancel').addEventListener('click', () => $('saving').close());
    $('saving').addEventListener('close', () => saving?.abort());
}

async function start() {
    $('save').disabled = true;
    base = bicubic($('bicubic'));
    listen();
    const said = parse(location.hash);
    const runs = typeof WebAssembly === 'object' && typeof Worker === 'function';
    client = runs ? new Client() : null;
    sharp = new Sharp(client, $('sharp'), tellState, failed);
    await Promise.all([showBundled(said), loadOffered(said)]);      // at once: they wait for different things
}

async function showBundled(said) {
    const blob = await (await fetch('photo.png')).blob();
    if (!taking) await take(blob, said);
    compare(said.split ?? null);
}

async function loadOffered(said) {
    if (!client) {
        failed(new Error('it has no WebAssembly'));
        return;
    }
    offered = await (await fetch('weights.json')).json();
    for (const { name, label } of offered.weights) $('weights').append(new Option(label, name));
    $('weightsLabel').hidden = offered.weights.length < 2;
    decided = isOffered(said.weights);
    await load(decided ? said.weights : suitable(), said.clean);
}

start().catch(error => {
    if (client) failed(error);
    else tell('Part of the page could not be loaded. Please reload it.');
});
