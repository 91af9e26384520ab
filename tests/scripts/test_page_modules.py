"""Parts of the page in node: where pixels lie, what is encoded and decoded at a time, PNG, links. And building it."""

import io
import json
import random
import runpy
import shutil
import subprocess

import numpy as np
import pytest
import torch
from browser import PAGE
from conftest import ROOT, TINY, refused
from examples import LIIF
from PIL import Image

import models
from models.rendering import grid

needs_node = pytest.mark.skipif(not shutil.which('node'), reason='node is not installed')


def node(script, given=None):
    """What `script`, which may import the page's modules from `./` and finds `given`, hands to `answer()`."""
    script = f"""
        import fs from 'node:fs';
        const given = JSON.parse(fs.readFileSync(0, 'utf8'));
        const answer = value => process.stdout.write(JSON.stringify(value, (_, v) =>
            typeof v === 'bigint' ? Number(v) : ArrayBuffer.isView(v) ? Array.from(v) : v));
        {script}"""
    command = ['node', '--input-type=module', '-e', script]
    done = subprocess.run(command, cwd=PAGE, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_blocks_are_those_of_render():
    chance = random.Random(3)
    axes = [(10, 15, 0, 15), (10, 25, 3, 20), (7, 7, 0, 7), (9, 4, 0, 4), (2, 200, 10, 170), (60000, 240001, 9, 90)]
    for _ in range(60):
        n_lr, n = chance.randint(1, 50), chance.randint(1, 300)
        first = chance.randrange(n)
        axes.append((n_lr, n, first, chance.randint(first + 1, n)))
    answers = node(
        """import { blocks, firstOutput, nearest } from './grid.js';
        answer(given.map(([nLr, n, first, last]) => ({ ...blocks(nLr, n, first, last, 2),
            firsts: Array.from({ length: Math.min(nLr, 60) + 1 }, (_, lr) => firstOutput(lr, nLr, n)) })));""",
        axes,
    )
    for (n_lr, n, first, last), answer in zip(axes, answers):
        expected = grid.Blocks(n_lr, n, range(first, last), fullest=32)
        assert answer['lr'] == (expected.pixels - 2).tolist()
        assert answer['slot'] == expected.slots().tolist() and answer['most'] == expected.size
        offset = torch.tensor(answer['offset']).reshape(expected.offset.shape)
        used = answer['slot']
        assert (offset.flatten()[used] == expected.offset.float().flatten()[used]).all()
        nearest = grid.nearest_index(n_lr, n)
        for lr, place in enumerate(answer['firsts']):
            assert place == int((nearest < lr).sum())


@needs_node
def test_pieces_cover_what_is_seen_once_and_parts_to_encode_hold_what_is_wanted():
    answers = node(
        """import { View } from './view.js';
        import { contains, pieces, toEncode } from './tiles.js';
        answer(given.map(([height, width, scale, y, x]) => {
            const view = new View({ height, width }, { height: 310, width: 480 });
            view.show({ scale, y, x });
            const { size, seen, seenLr } = view, encoded = [], sizes = [];
            const all = pieces(view.photo, size, seen, seenLr, view.scale);
            for (const { lr } of all) {
                if (encoded.some(part => contains(part, lr))) continue;
                const part = toEncode(lr, seenLr, encoded, view.photo, 128);
                if (!contains(part, lr)) throw new Error('a piece is not in what is encoded for it');
                encoded.push(part);
            }
            return { seen, all: all.map(({ output }) => output), encoded, seenLr, origin: view.origin };
        }));""",
        [
            [300, 444, 1.3, 0.5, 0.5],
            [300, 444, 3.71, 0.1, 0.9],
            [84, 110, 40, 0.7, 0.2],
            [5, 7, 64, 0.5, 0.5],
            [3000, 5000, 1, 0.4, 0.4],
            [3000, 20, 2.5, 0.99, 0],
        ],
    )
    for answer in answers:
        seen, covered = answer['seen'], np.zeros((310, 480), int)
        for part in answer['all']:
            covered[
                part['top'] - seen['top'] : part['bottom'] - seen['top'],
                part['left'] - seen['left'] : part['right'] - seen['left'],
            ] += 1
        assert (covered[: seen['bottom'] - seen['top'], : seen['right'] - seen['left']] == 1).all()
        assert covered.sum() == (seen['bottom'] - seen['top']) * (seen['right'] - seen['left'])
        for part in answer['encoded']:
            assert max(part['bottom'] - part['top'], part['right'] - part['left']) <= 192
        area = sum((part['bottom'] - part['top']) * (part['right'] - part['left']) for part in answer['encoded'])
        sight = answer['seenLr']
        assert area <= (sight['bottom'] - sight['top'] + 128) * (sight['right'] - sight['left'] + 128)  # none twice


@needs_node
def test_what_is_under_the_pointer_stays_there():
    answers = node(
        """import { View } from './view.js';
        answer(given.map(scale => {
            const view = new View({ height: 300, width: 444 }, { height: 310, width: 480 });
            view.show({ scale: 3, y: 0.5, x: 0.5 });
            const point = { y: 100, x: 333 };
            const under = () => [(view.origin.top + point.y) / view.scale, (view.origin.left + point.x) / view.scale];
            const before = under();
            view.zoom(scale, point);
            return [before, under(), view.scale];
        }));""",
        [3.1, 5, 17, 64, 2.5],
    )
    for before, after, scale in answers:
        assert np.abs(np.subtract(before, after)).max() <= 0.7 / scale + 0.7 / 3  # half a pixel, twice
    limits = node("""import { View } from './view.js';
        const view = new View({ height: 30, width: 44 }, { height: 310, width: 480 });
        answer([1e9, 1e-9].map(scale => (view.zoom(scale), view.scale)).concat(view.fitting));""")
    assert limits == [64, 1, pytest.approx(310 / 30)]


@needs_node
def test_png_in_rows():
    pixels = np.random.default_rng(0).integers(0, 256, (23, 17, 3), np.uint8)
    pixels[5:15] = 200
    written = node(
        """import { PngWriter } from './png.js';
        const writer = new PngWriter(23, 17), rows = Uint8Array.from(given);
        for (const [first, last] of [[0, 1], [1, 9], [9, 9], [9, 23]])
            await writer.write(rows.subarray(51 * first, 51 * last));
        answer(new Uint8Array(await (await writer.finish()).arrayBuffer()));""",
        pixels.flatten().tolist(),
    )
    with Image.open(io.BytesIO(bytes(written))) as picture:
        assert picture.format == 'PNG' and (np.asarray(picture) == pixels).all()
    with Image.open(io.BytesIO(bytes(written))) as picture:
        picture.verify()  # its checksums


@needs_node
def test_links():
    said = node("""import { format, parse } from './link.js';
        answer([parse('#scale=3.7&y=0.25&x=1&weights=light'), parse('#scale=nan&y=-1&x=2&other=3'), parse(''),
            parse(format({ scale: 1 / 3, x: 0.123456789, weights: 'a&b', split: undefined }))]);""")
    assert said[:3] == [{'scale': 3.7, 'y': 0.25, 'x': 1, 'weights': 'light'}, {}, {}]
    assert said[3] == {'scale': 0.33333333, 'x': 0.12345679, 'weights': 'a&b'}


# ---------------------------------------------------------------- building


@pytest.fixture
def parts(tmp_path):
    """A folder like that of onnxruntime-web, and one of weights, light and cleaning."""
    build = runpy.run_path(str(PAGE / 'build.py'))
    (tmp_path / 'ort' / 'dist').mkdir(parents=True)
    for name in build['RUNTIME']:
        (tmp_path / 'ort' / 'dist' / name).write_text(name)
    (tmp_path / 'zoo').mkdir()
    for seed, name in enumerate(('light_MSIT.pth', 'photo_MSIT.pth')):
        torch.manual_seed(seed)
        models.save(tmp_path / 'zoo' / name, models.build(TINY), {'licence': f'licence {seed}'})
    return tmp_path


def test_weights_and_the_dial_between_them(parts):
    build = runpy.run_path(str(PAGE / 'build.py'))
    exported = []

    def export(model, folder, weights, licence):
        exported.append((folder.name, model.state_dict(), weights.name, licence))

    build['build'].__globals__.update(STOPS=(0, 0.25, 1), export=export)
    page = parts / 'page'
    build['build'](page, parts / 'zoo', [parts / 'ort' / 'dist' / name for name in build['RUNTIME']])
    assert {'index.html', 'page.js', 'worker.js', 'photo.png', 'weights.json'} <= {file.name for file in page.iterdir()}
    light, photo = json.loads((page / 'weights.json').read_text())['weights']
    assert [(each['for_lossy'], each['clean']) for each in (light, photo)] == [(False, 0), (True, 1)]
    assert [stop['clean'] for stop in light['stops']] == [0] and [stop['clean'] for stop in photo['stops']] == [
        0,
        0.25,
        1,
    ]
    assert [stop['folder'] for stop in photo['stops']] == [f'models/{name}' for name, *_ in exported]
    ends = [models.load(parts / 'zoo' / name).state_dict() for name in ('light_MSIT.pth', 'photo_MSIT.pth')]
    named = ('light_MSIT.pth', 'licence 0'), ('light_MSIT.pth', 'licence 0; licence 1'), ('photo_MSIT.pth', 'licence 1')
    for share, (_, state, *told), expected in zip((0, 0.25, 1), exported, named):
        assert tuple(told) == expected and state.keys() == ends[0].keys()
        for key, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(value, ends[0][key] + share * (ends[1][key] - ends[0][key]))


@pytest.mark.parametrize(
    'change, said',
    [
        (lambda folder: (folder / 'ort/dist/ort.wasm.min.mjs').unlink(), 'is missing'),
        (
            lambda folder: [(folder / 'page').mkdir(), (folder / 'page' / 'thesis.txt').write_text('')],
            'is not a built page',
        ),
        (lambda folder: (folder / 'page').write_text(''), 'is not a built page'),
        (lambda folder: (folder / 'zoo/light_MSIT.pth').unlink(), 'neither'),
    ],
)
def test_mistakes(program, parts, change, said):
    change(parts)
    before = sorted(parts.rglob('*'))
    refused(program('scripts/page/build.py', '-ort', 'ort', '-modelzoo', 'zoo', '-output', 'page'), said)
    assert sorted(parts.rglob('*')) == before


def test_weights_that_cannot_be_blended(program, parts):
    models.save(parts / 'zoo' / 'photo_MSIT.pth', models.build(LIIF))
    status, _, err = program('scripts/page/build.py', '-ort', 'ort', '-modelzoo', 'zoo', '-output', 'page')
    assert status == 2 and 'photo_MSIT.pth' in err and 'one architecture' in err and err.count('\n') == 1


def test_the_browser_s_policy_lets_nothing_out():
    page = (PAGE / 'index.html').read_text()
    policy = page.split('Content-Security-Policy" content="')[1].split('"')[0]
    assert policy.startswith("default-src 'none'")
    assert set(policy.replace(';', '').split()) & {'*', 'http:', 'https:', 'ws:', 'wss:'} == set()
    for file in PAGE.glob('*'):
        if file.suffix in ('.js', '.html', '.css'):
            assert 'http://' not in file.read_text() and 'https://' not in file.read_text()


def test_onnxruntime_is_pinned():
    wanted = json.loads((PAGE / 'package.json').read_text())['dependencies']
    lock = json.loads((PAGE / 'package-lock.json').read_text())['packages']
    assert list(wanted) == ['onnxruntime-web'] and wanted['onnxruntime-web'][0].isdigit()
    assert lock['node_modules/onnxruntime-web']['version'] == wanted['onnxruntime-web']
    assert all('integrity' in package and 'resolved' not in package for name, package in lock.items() if name)
    assert (ROOT / '.gitignore').read_text().splitlines().count('/page/') == 1
