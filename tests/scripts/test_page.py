"""The page that zooms into a photo, in a real browser: its pixels against `render`, and what people do with it."""

import argparse
import io
import json
import runpy
from base64 import b64decode
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch
from browser import PAGE, PATIENCE, SOFTWARE, chromium, launched, runtime, served, until, wait_until_sharp
from conftest import ROOT
from examples import LTE
from PIL import Image
from torchvision.transforms.functional import to_tensor

import models

pytest.importorskip('onnxscript', reason='onnxscript is not installed')
LIGHT = next(
    path for path in (ROOT / 'modelzoo' / name for name in ('light_MSIT.pth', 'EDSR_light_MSIT.pth')) if path.is_file()
)
WINDOW = {'width': 480, 'height': 420}
RECORD = """
// the worker's replies; what it is asked to render; what is kept from it, if anything is to be
window.replies = [], window.asked = [], window.held = undefined;
window.Worker = class extends Worker {
    constructor(...given) {
        super(...given);
        this.addEventListener('message', ({ data }) => window.replies.push(data.result?.encoded ?? data));
    }
    postMessage(data, ...rest) {
        const send = () => super.postMessage(data, ...rest);
        if (data.task !== 'render') return send();
        window.asked.push({ lr: data.lr, output: data.output, size: data.size });
        if (window.held) window.held.push(send); else send();
    }
};
"""


@pytest.fixture(scope='module')
def zoo(tmp_path_factory):
    """A folder of light weights, of a small model of another kind than the bundled ones."""
    folder = tmp_path_factory.mktemp('zoo')
    torch.manual_seed(2)
    model = models.build(LTE)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    models.save(folder / 'light_MSIT.pth', model)
    return folder


@pytest.fixture(scope='module')
def small(zoo):
    return models.load(zoo / 'light_MSIT.pth')


@pytest.fixture(scope='module')
def built(tmp_path_factory, zoo):
    """The built page. Its light weights are small ones, which the dial leads to the bundled ones from."""
    folder, build = tmp_path_factory.mktemp('page') / 'built', runpy.run_path(str(PAGE / 'build.py'))
    build['main'](argparse.Namespace(ort=runtime(), output=folder, modelzoo=zoo))
    offered = json.loads((folder / 'weights.json').read_text())
    stops = [*offered['weights'][0]['stops'], build['exported'](LIGHT, folder, 'bundled', 0) | {'clean': 1}]
    photo = {'name': 'photo', 'label': 'photo: with noise or JPEG', 'for_lossy': True, 'clean': 0.9, 'stops': stops}
    offered['weights'].append(photo)
    (folder / 'weights.json').write_text(json.dumps(offered))
    return folder


@pytest.fixture(scope='module')
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope='module')
def address(built):
    with served(built) as url:
        yield url


@pytest.fixture
def visit(browser, address, request):
    """`visit(hash)` opens the page, on one thread of the processor; when the test ends the console has no error."""
    wrong, contexts = [], []

    def opened(fragment='', query='?backend=wasm&threads=1', url=address, script=RECORD, browser=browser, **options):
        contexts.append(browser.new_context(**{'viewport': WINDOW, 'reduced_motion': 'reduce', **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on('console', lambda message: wrong.append(message.text) if message.type == 'error' else None)
        page.on('pageerror', lambda error: wrong.append(str(error)))
        page.on('request', lambda sent: wrong.append(sent.url) if outside(sent.url, url) else None)
        page.add_init_script(script)
        page.goto(f'{url}/{query}{fragment}')
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def outside(address, url):
    """Whether an address is not of the page's own server."""
    return not address.startswith((url, 'blob:', 'data:'))


@pytest.fixture(scope='module')
def cat():
    """A part of a photograph as PNG bytes, and as a tensor (1, 3, 84, 110)."""
    picture = Image.open(ROOT / 'tests' / 'photos' / 'chelsea.png').convert('RGB').crop((120, 60, 230, 144))
    file = io.BytesIO()
    picture.save(file, 'PNG')
    return file.getvalue(), to_tensor(picture)[None]


def transfer(page, content, name='photo.png', kind='image/png'):
    """A file as it is dropped or pasted."""
    return page.evaluate_handle(
        """([bytes, name, type]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type }));
            return transfer;
        }""",
        [list(content), name, kind],
    )


def drop(page, content, name='photo.png', kind='image/png'):
    """Drop a file on the page as a person does."""
    files = transfer(page, content, name, kind)
    for event in ('dragover', 'drop'):
        page.dispatch_event('#stage', event, {'dataTransfer': files})


def dropped(page, photo):
    """Drop a photo and wait until the page shows it."""
    content, lr = photo
    drop(page, content)
    until(page, f"document.getElementById('sharp').ariaLabel.includes('{lr.shape[-1]} by {lr.shape[-2]} ')")


def scaled(page, scale):
    page.fill('#scale', str(scale))
    page.press('#scale', 'Enter')
    until(page, f"location.hash.includes('scale={scale}&')")


def link(page):
    return {
        name: float(values[0])
        for name, values in parse_qs(page.evaluate('location.hash.slice(1)')).items()
        if name != 'weights'
    }


def expected(page, lr, model):
    """What a model renders of what is seen, as the link tells: levels of 0 to 255 `(h, w, 3)`."""
    said, canvas = link(page), page.evaluate("[document.getElementById('sharp').height, sharp.width]")
    sizes, parts = [], []
    for axis, n_lr, seen in zip('yx', lr.shape[-2:], canvas):
        size = int(np.floor(n_lr * said['scale'] + 0.5))
        first = int(np.floor(said[axis] * size - seen / 2 + 0.5))
        first = min(max(first, 0), max(size - seen, 0))
        sizes.append(size)
        parts.append(range(first, min(first + seen, size)))
    picture = model.render(lr, sizes)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    return np.round(255 * picture[parts[0].start : parts[0].stop, parts[1].start : parts[1].stop]).astype(int)


def seen(page):
    """What is on the screen where the photo is: levels `(h, w, 3)`."""
    page.mouse.move(1, 1)
    box = page.locator('#stage').bounding_box()
    shot = page.screenshot(clip=box)
    return np.asarray(Image.open(io.BytesIO(shot)).convert('RGB')).astype(int)


def same(picture, other):
    return picture.shape == other.shape and np.abs(picture - other).max() <= 2


# ---------------------------------------------------------------- pixels


def test_a_photo_is_seen_as_render_renders_it(visit, cat):
    content, lr = cat
    model, bicubic = models.load(LIGHT), models.load('bicubic')
    page = visit('#weights=photo', viewport={'width': 360, 'height': 420})
    dropped(page, cat)
    stage = page.locator('#stage').bounding_box()
    middle = stage['x'] + stage['width'] / 2, stage['y'] + stage['height'] / 2
    page.mouse.move(middle[0] + 60, middle[1] - 40)
    before = page.input_value('#scale')
    for _ in range(3):
        page.mouse.wheel(0, -120)
    until(page, f"document.getElementById('scale').value !== '{before}' && location.hash.includes('scale')")
    assert link(page)['x'] > 0.5 > link(page)['y']  # towards the pointer
    page.keyboard.press('0')
    scaled(page, 3.7)
    wait_until_sharp(page)
    assert page.text_content('#state') == 'Sharp' and page.text_content('#said') == 'Sharp, x 3.70'
    assert float(page.text_content('#took').removeprefix('The last view was sharp after ').removesuffix(' s.')) > 0
    picture = seen(page)
    assert same(picture, expected(page, lr, model))
    assert np.abs(picture - expected(page, lr, bicubic)).max() > 10
    # pan
    at = link(page)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 20, middle[1] + 25, steps=3)
    page.mouse.up()
    wait_until_sharp(page)
    now = link(page)
    assert now['x'] - at['x'] == pytest.approx(20 / 407, abs=1.01 / 407)  # half a pixel at both
    assert at['y'] - now['y'] == pytest.approx(25 / 311, abs=1.01 / 311)
    assert same(seen(page), expected(page, lr, model))
    # split: bicubic on the left, the model on the right
    page.keyboard.press('c')
    page.locator('#split').evaluate("line => line.style.visibility = 'hidden'")
    picture, half = seen(page), 180
    assert same(picture[:, :half], expected(page, lr, bicubic)[:, :half])
    assert same(picture[:, half:], expected(page, lr, model)[:, half:])
    # save
    page.keyboard.press('s')
    page.fill('#saveScale', '2')
    assert '220 × 168' in page.text_content('#saveNote')
    with page.expect_download() as download:
        page.click('#saveStart')
    assert download.value.suggested_filename == 'photo_220x168.png'
    saved = Image.open(download.value.path())
    rendered = model.render(lr, (168, 220))[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert saved.mode == 'RGB' and same(np.asarray(saved).astype(int), np.round(255 * rendered).astype(int))
    # a text file
    drop(page, b'no photo', 'notes.txt', 'text/plain')
    page.wait_for_selector('#message')
    assert 'notes.txt' in page.text_content('#sentence') and 'not an image' in page.text_content('#sentence')
    assert page.locator('#message').get_attribute('role') == 'alert'
    page.click('#close')
    assert page.locator('#message').is_hidden()


def test_without_a_graphics_card_bicubic_is_the_same(visit, browser, cat):
    plain = launched(browser.browser_type, ['--disable-3d-apis'])
    try:
        page = visit('#split=1', browser=plain)
        assert page.evaluate("document.createElement('canvas').getContext('webgl2') === null")
        dropped(page, cat)
        scaled(page, 6.4)
        wait_until_sharp(page)
        page.locator('#split').evaluate("line => line.style.visibility = 'hidden'")
        assert same(seen(page), expected(page, cat[1], models.load('bicubic')))
    finally:
        page.context.close()
        plain.close()


def test_what_is_seen_is_as_many_pixels_as_the_screen_has(visit, cat, small):
    page = visit(device_scale_factor=1.5, viewport={'width': 400, 'height': 360})
    dropped(page, cat)
    scaled(page, 9.1)
    wait_until_sharp(page)
    assert page.evaluate('[sharp.width, sharp.clientWidth]') == [600, 400]
    shown = Image.open(io.BytesIO(b64decode(page.evaluate("sharp.toDataURL().split(',')[1]"))))
    assert shown.mode == 'RGBA' and shown.getextrema()[3] == (255, 255)
    assert same(np.asarray(shown)[..., :3].astype(int), expected(page, cat[1], small))


def test_the_dial_leads_from_one_choice_of_weights_to_another(visit, cat, small):
    page = visit('#weights=photo&clean=0')
    dropped(page, cat)
    scaled(page, 6.4)
    wait_until_sharp(page)
    light = seen(page)
    assert same(light, expected(page, cat[1], small)) and link(page)['clean'] == 0
    page.focus('#clean')
    page.keyboard.press('End')
    until(page, "location.hash.includes('clean=1')")
    wait_until_sharp(page)
    cleaned = seen(page)
    assert same(cleaned, expected(page, cat[1], models.load(LIGHT))) and np.abs(cleaned - light).max() > 10
    page.select_option('#weights', 'light')
    until(page, "location.hash.includes('weights=light')")
    wait_until_sharp(page)
    assert page.locator('#clean').is_hidden() and 'clean' not in link(page)


def test_the_kind_of_file_decides_which_weights_unless_the_user_does(visit, cat):
    page = visit()

    def chosen(name):
        until(page, f"weights.value === '{name}' && document.getElementById('save').disabled === false")
        return page.evaluate('cleanLabel.hidden ? null : Number(clean.value)')

    assert chosen('light') is None
    jpeg = io.BytesIO()
    Image.open(io.BytesIO(cat[0])).convert('RGB').save(jpeg, 'jpeg')
    drop(page, jpeg.getvalue(), 'photo.jpg', 'image/jpeg')
    assert chosen('photo') == 1  # the dial is where it belongs, at the nearest of its stops
    drop(page, b'no image', 'notes.txt', 'text/plain')
    until(page, '!message.hidden')
    assert chosen('photo') == 1  # for the photo that is still there
    dropped(page, cat)
    assert chosen('light') is None
    wait_until_sharp(page)
    assert 'weights' not in page.evaluate('location.hash')  # so that a reload decides anew
    page.select_option('#weights', 'photo')
    assert chosen('photo') == 1
    page.focus('#clean')
    page.keyboard.press('Home')
    dropped(page, cat)
    assert chosen('photo') == 0


def test_what_the_page_says_does_not_move_the_photo(visit, cat):
    page = visit()
    dropped(page, cat)
    page.select_option('#weights', 'photo')
    for width in (320, 400, 700, 1000):
        page.set_viewport_size({'width': width, 'height': 500})
        heights = page.evaluate("""() => ['Starting', 'Sharp', 'Sharpening: 100 %', 'Loading the model',
            'Reduced: zoom in'].map(said => {
                const state = document.getElementById('state');
                state.textContent = said;
                return state.scrollWidth > state.clientWidth ? `${said} is cut`
                    : document.getElementById('stage').clientHeight;
            })""")
        assert len(set(heights)) == 1 and int(heights[0]) > 100, (width, heights)


def test_bicubic_answers_in_the_next_frame(visit, cat):
    page = visit()
    dropped(page, cat)
    scaled(page, 6)
    wait_until_sharp(page)
    changed = page.evaluate("""async () => {
        const canvas = document.getElementById('bicubic'), stage = document.getElementById('stage');
        const gl = canvas.getContext('webgl2'), answers = [];
        const seen = () => {
            const pixels = new Uint8Array(4 * canvas.width * canvas.height);
            gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
            return pixels;
        };
        const pointer = (kind, clientX) => stage.dispatchEvent(new PointerEvent(kind, { pointerId: 1, clientX,
            clientY: 200, bubbles: true }));
        stage.setPointerCapture = () => {};         // of a pointer that the browser does not know
        pointer('pointerdown', 200);
        for (const act of [() => pointer('pointermove', 160),
                           () => stage.dispatchEvent(new WheelEvent('wheel', { deltaY: -120, bubbles: true }))]) {
            const before = seen();
            act();
            await new Promise(requestAnimationFrame);
            answers.push(seen().some((value, k) => value !== before[k]));
        }
        return answers;
    }""")
    assert changed == [True, True]


def test_zooming_in_decodes_alone_and_moving_on_cancels(visit, cat):
    page = visit()
    dropped(page, cat)
    scaled(page, 5)
    wait_until_sharp(page)
    encoded, pieces = page.evaluate('[JSON.stringify(replies.at(-1)), asked.length]')
    assert len(json.loads(encoded)) >= 1 and pieces >= 4
    scaled(page, 9.5)
    wait_until_sharp(page)
    assert page.evaluate('[JSON.stringify(replies.at(-1)), asked.length > %d]' % pieces) == [encoded, True]
    # from the middle outwards, each once
    middle = page.evaluate(
        """asked.slice(%d).filter(({ size }) => size.width === Math.round(110 * 9.5)).map(
        ({ output, size }) => Math.hypot((output.top + output.bottom - size.height) / 2,
                                         (output.left + output.right - size.width) / 2))"""
        % pieces
    )
    assert len(middle) >= 8 and all(next >= last - 2 for last, next in zip(middle, middle[1:]))
    # what is not seen any more is not rendered, but for the piece that the worker has been asked for
    page.evaluate('held = []')
    scaled(page, 30)
    until(page, 'asked.at(-1).size.width === 3300')
    scaled(page, 64)
    page.evaluate('() => { const all = held; held = undefined; all.forEach(send => send()); }')
    wait_until_sharp(page)
    assert page.evaluate('asked.filter(({ size }) => size.width === 3300).length') == 1


def test_a_link_holds_position_and_zoom(visit, small):
    page = visit('#weights=light&scale=8.5&y=0.3&x=0.7&split=0.25')
    wait_until_sharp(page)
    assert link(page) == pytest.approx({'scale': 8.5, 'y': 0.3, 'x': 0.7, 'split': 0.25}, abs=1e-3)  # of pixels
    lr = to_tensor(Image.open(ROOT / 'scripts/demo.png').convert('RGB'))[None]  # the bundled photo
    page.locator('#split').evaluate("line => line.style.visibility = 'hidden'")
    picture = seen(page)
    assert same(picture[:, 120:], expected(page, lr, small)[:, 120:])
    page.evaluate("location.hash = '#scale=6&y=0.5&x=0.5'")
    until(page, 'document.getElementById("scale").value === "6.00"')
    assert page.locator('#split').is_hidden()
    for nonsense in ('#scale=-1&y=9', '#scale=x', '#%%%', '#split=2'):
        page.evaluate(f"location.hash = '{nonsense}'")
        until(page, "document.getElementById('scale').value === (Math.min(sharp.height, sharp.width) / 170).toFixed(2)")


def test_the_keyboard_is_enough(visit):
    page = visit()
    until(page, "document.getElementById('save').disabled === false")
    order = []
    for _ in range(11):
        page.keyboard.press('Tab')
        order.append(page.evaluate('document.activeElement.id'))
    assert order[:9] == ['open', 'save', 'about', 'stage', 'out', 'scale', 'in', 'fit', 'compare']
    page.focus('#stage')
    for _ in range(6):
        page.keyboard.press('+')
    wait_until_sharp(page)
    at = link(page)
    page.keyboard.press('ArrowRight')
    page.keyboard.press('ArrowDown')
    until(page, f"Math.abs(new URLSearchParams(location.hash.slice(1)).get('x') - {at['x']}) > 1e-6")
    now = link(page)
    assert now['x'] > at['x'] and now['scale'] == at['scale']
    page.keyboard.press('0')
    until(page, '!location.hash.includes("scale")')
    page.keyboard.press('c')
    assert page.get_attribute('#compare', 'aria-pressed') == 'true'
    page.focus('#split')
    page.keyboard.press('ArrowLeft')
    assert page.get_attribute('#split', 'aria-valuenow') == '48'
    page.keyboard.press('Home')
    assert page.get_attribute('#split', 'aria-valuenow') == '0'
    page.keyboard.press('s')
    assert page.evaluate("document.getElementById('saving').open && document.activeElement.id") == 'saveScale'
    page.keyboard.press('Escape')
    assert not page.evaluate("document.getElementById('saving').open")
    page.focus('#about')
    page.keyboard.press('Enter')
    assert page.evaluate("document.getElementById('help').open")


def test_everything_has_a_name(visit):
    page = visit()
    parts = 'button, input:not([hidden]), select, [tabindex], canvas'
    nameless = page.evaluate(
        f"[...document.querySelectorAll('{parts}')]"
        + """
        .filter(part => !part.closest('[aria-hidden]') && !(part.ariaLabel || part.labels?.length
                         || part.textContent.trim())).map(part => part.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute('#said', 'role') == 'status' and page.get_attribute('html', 'lang') == 'en'


def test_two_fingers_zoom_about_what_is_between_them(visit, cat):
    page = visit(has_touch=True, viewport={'width': 390, 'height': 700})
    dropped(page, cat)
    scaled(page, 8)
    wait_until_sharp(page)
    box, session = page.locator('#stage').bounding_box(), page.context.new_cdp_session(page)
    y, x = box['y'] + box['height'] / 2, box['x'] + box['width'] / 2

    def touch(kind, apart):
        points = [{'x': x - apart, 'y': y, 'id': 1}, {'x': x + apart, 'y': y, 'id': 2}] if apart else []
        session.send('Input.dispatchTouchEvent', {'type': kind, 'touchPoints': points})

    touch('touchStart', 40)
    for apart in (50, 60, 80):
        touch('touchMove', apart)
    touch('touchEnd', 0)
    wait_until_sharp(page)
    now = link(page)
    assert now['scale'] == pytest.approx(16, rel=0.02)
    assert now['x'] == pytest.approx(0.5, abs=0.01) and now['y'] == pytest.approx(0.5, abs=0.01)


def test_nothing_sticks_out_of_a_screen(visit):
    page = visit('#weights=photo&clean=0&split=0.5')
    until(page, "document.getElementById('save').disabled === false && !cleanLabel.hidden")
    page.evaluate("document.getElementById('message').hidden = false")
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({'width': width, 'height': 640})
        for dialog in (None, 'saving', 'help'):
            if dialog:
                page.evaluate(f"document.getElementById('{dialog}').showModal()")
            out = page.evaluate("""[...document.querySelectorAll('body *')].filter(part => {
                const box = part.getBoundingClientRect();
                return box.width && !part.closest('.hidden') && (box.right > innerWidth + 0.5 || box.left < -0.5);
            }).map(part => part.id || part.className || part.tagName)""")
            assert out == [], (width, dialog)
            if dialog:
                page.evaluate(f"document.getElementById('{dialog}').close()")
        # a message leaves the buttons free
        assert page.evaluate('message.getBoundingClientRect().top >= stage.getBoundingClientRect().top')
        assert page.evaluate("document.getElementById('stage').clientHeight") > 300


def test_a_photo_can_be_pasted(visit, cat):
    page = visit()
    until(page, "document.getElementById('save').disabled === false")
    page.evaluate('dispatchEvent(new ClipboardEvent("paste", { clipboardData: new DataTransfer() }))')  # words, say
    page.evaluate(
        'files => document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: files, bubbles: true }))',
        transfer(page, cat[0]),
    )
    until(page, "document.getElementById('sharp').ariaLabel.includes('110 by 84 ')")


def test_the_photo_chosen_last_stays(visit, cat):
    """Though the bundled one is read after it."""
    page = visit(
        script="""const whole = window.fetch;
        window.fetch = (name, ...rest) => name !== 'photo.png' ? whole(name, ...rest)
            : new Promise(done => window.arrive = () => done(whole(name, ...rest)));"""
    )
    until(page, 'window.arrive')
    dropped(page, cat)
    page.evaluate('arrive()')
    wait_until_sharp(page)
    assert '110 by 84 ' in page.get_attribute('#sharp', 'aria-label')


# ---------------------------------------------------------------- what goes wrong


def test_an_image_that_is_too_large_is_told(visit):
    page = visit()
    until(page, "document.getElementById('save').disabled === false")
    page.evaluate('createImageBitmap = async () => ({ height: 6000, width: 9000, close() {} })')
    drop(page, b'', 'photo.png')
    until(page, "document.getElementById('message').hidden === false")
    assert 'too large: 9000 × 6000' in page.text_content('#sentence')


def test_without_webassembly_bicubic_stays(visit, cat):
    page = visit(script='delete window.WebAssembly')
    until(page, "document.getElementById('state').textContent === 'Bicubic only'")
    assert 'no WebAssembly' in page.text_content('#sentence')
    dropped(page, cat)
    scaled(page, 7)
    assert np.abs(seen(page) - expected(page, cat[1], models.load('bicubic'))).max() <= 2


def test_a_model_that_needs_too_much_memory_is_told(visit, cat):
    page = visit(
        script=RECORD.replace(
            'if (window.held) window.held.push(send); else send();',
            "this.onmessage({ data: { id: data.id, error: 'std::bad_alloc', memory: true } });",
        )
    )
    until(page, "document.getElementById('message').hidden === false")
    until(page, "document.getElementById('state').textContent === 'Bicubic'")
    assert 'not enough memory' in page.text_content('#sentence')


def test_sizes_that_cannot_be_saved(visit, cat):
    page = visit()
    dropped(page, cat)
    page.click('#save')
    for size, said in ('109', 'not below those'), ('2.5', 'whole number'), ('99999', 'At most 1000 million'):
        page.fill('#saveWidth', size)
        assert said in page.text_content('#saveNote') and page.is_disabled('#saveStart')


def test_saving_can_be_cancelled(visit, cat):
    page = visit()
    dropped(page, cat)
    wait_until_sharp(page)
    page.click('#save')
    page.fill('#saveScale', '40')
    page.click('#saveStart')
    until(page, "document.getElementById('saveProgress').value > 0")
    fields = 'saveScale', 'saveWidth', 'saveHeight', 'saveStart'
    assert all(page.is_disabled(f'#{field}') for field in fields)  # one size at a time
    page.click('#saveCancel')
    until(page, "document.getElementById('saveProgress').hidden")
    assert not any(page.is_disabled(f'#{field}') for field in fields)
    asked = page.evaluate('asked.length')
    page.wait_for_timeout(500)
    assert page.evaluate('asked.length') <= asked + 1 and page.locator('#message').is_hidden()


# ---------------------------------------------------------------- where it is served from, and on what it runs


def test_any_static_host_at_any_path(visit, built, cat, tmp_path):
    """A server that knows nothing of the headers that threads need."""
    import functools
    import http.server
    import threading

    (tmp_path / 'some').mkdir()
    (tmp_path / 'some' / 'path').symlink_to(built)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        page = visit(url=f'http://localhost:{server.server_port}/some/path', query='?backend=wasm')
        assert page.evaluate('crossOriginIsolated') is False
        dropped(page, cat)
        scaled(page, 6.4)
        wait_until_sharp(page)
        assert '1 thread)' in page.text_content('#facts')
    finally:
        server.shutdown()
        server.server_close()


def test_two_threads(visit, cat, small):
    page = visit(query='?backend=wasm&threads=2')
    dropped(page, cat)
    scaled(page, 6.4)
    wait_until_sharp(page)
    assert page.evaluate('crossOriginIsolated') and '2 threads' in page.text_content('#facts')
    assert same(seen(page), expected(page, cat[1], small))


def test_webgpu(visit, browser, cat, small):
    """By a program that stands in for a graphics card, which takes its time."""
    card = launched(browser.browser_type, ['--enable-unsafe-webgpu', '--use-webgpu-adapter=swiftshader', *SOFTWARE])
    page = None
    try:
        page = visit(query='?backend=webgpu', browser=card)
        if not page.evaluate('(async () => Boolean(await navigator.gpu?.requestAdapter()))()'):
            pytest.skip('there is no WebGPU')
        part = Image.open(io.BytesIO(cat[0])).crop((30, 20, 46, 32))
        file = io.BytesIO()
        part.save(file, 'PNG')
        photo = file.getvalue(), to_tensor(part)[None]
        dropped(page, photo)
        until(page, "document.documentElement.dataset.backend === 'webgpu'")
        assert page.evaluate("document.getElementById('facts').textContent.includes('WebGPU')")
        page.click('#save')
        page.fill('#saveScale', '2.25')
        with page.expect_download() as download:
            page.click('#saveStart')
        size = 27, 36
        rendered = small.render(photo[1], size)[0].clamp(0, 1).permute(1, 2, 0).numpy()
        saved = np.asarray(Image.open(download.value.path())).astype(int)
        assert same(saved, np.round(255 * rendered).astype(int))
    finally:
        if page:
            page.context.close()
        card.close()
