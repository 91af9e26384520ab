"""prepare_data.py: what it recognises, refuses and completes, with archives and a server made by the tests."""

import hashlib
import http.server
import io
import os
import runpy
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from conftest import ROOT, refused
from PIL import Image

from datasets.image_folder import read_rgb
from datasets.preparation import archives
from datasets.reduction import reduced

NAMES = ['baby', 'bird', 'butterfly', 'head', 'woman']
PROGRAM = 'scripts/prepare_data.py'


def picture(number, kind='PNG', mode='RGB'):
    """The bytes of a small random image."""
    pixels = np.random.default_rng(number).integers(0, 256, (25, 26, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind)
    return data.getvalue()


SET5 = {f'Set5/HR/{name}.png': picture(k) for k, name in enumerate(NAMES)}


def tar(path, files, mode='w', links=()):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return path


def zipped(path, files):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def contents(root):
    """All files in a folder and its subfolders: their bytes and modification times."""
    files = [file for file in root.rglob('*') if file.is_file()]
    return {file.relative_to(root).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def assert_set5(root):
    files = contents(root / 'Set5')
    assert set(files) == (
        {f'{name}.png' for name in NAMES} | {f'LR_bicubic/X{s}/{name}x{s}.png' for name in NAMES for s in (2, 3, 4)}
    )
    for name in NAMES:
        hr = read_rgb(root / 'Set5' / f'{name}.png')
        assert np.array_equal(hr, read_rgb(io.BytesIO(SET5[f'Set5/HR/{name}.png'])))
        for scale in (2, 3, 4):
            lr = read_rgb(root / f'Set5/LR_bicubic/X{scale}/{name}x{scale}.png')
            assert lr.shape == (25 // scale, 26 // scale, 3)
            assert np.array_equal(lr, reduced(hr, scale)[0])


@pytest.fixture
def prepare(program, tmp_path):
    """`prepare('set5', '-from', source)` runs the program with `tmp_path/data` as its root and returns its exit status,
    stdout, and of stderr the last line, without the progress bars before it."""

    def run(*arguments):
        status, out, err = program(PROGRAM, *arguments, '-root', tmp_path / 'data')
        return status, out, ''.join(err.splitlines(keepends=True)[-1:])

    return run


def succeeded(result):
    status, out, err = result
    assert status == 0, err
    return out


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of the folder `tmp_path/served` that knows ranges: its `url`, the `ranges` asked for, and, per answer,
    after how many bytes it is to break off (`cuts`)."""
    folder = tmp_path / 'served'
    folder.mkdir()
    monkeypatch.setenv('no_proxy', '127.0.0.1')

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            file = folder / self.path.strip('/')
            server.ranges.append(self.headers['Range'])
            if not file.is_file():
                return self.send_error(404)
            data, start = file.read_bytes(), 0
            tag = f'"{hashlib.sha256(data).hexdigest()}"'
            if self.headers['Range'] and self.headers['If-Range'] == tag:
                start = int(self.headers['Range'].removeprefix('bytes=').rstrip('-'))
                if start >= len(data):
                    return self.send_error(416)
            self.send_response(206 if start else 200)
            if server.versions:
                self.send_header('ETag', tag)
            if start:
                self.send_header('Content-Range', f'bytes {start}-{len(data) - 1}/{len(data)}')
            self.send_header('Content-Length', str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : start + server.cuts.pop(0)] if server.cuts else data[start:])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        server.folder, server.ranges, server.cuts, server.versions = folder, [], [], True
        server.url = f'http://127.0.0.1:{server.server_port}'
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


# ---------------------------------------------------------------- what is recognised


@pytest.mark.parametrize(
    'make',
    [
        lambda path: folder(path / 'benchmark', SET5),
        lambda path: folder(path / 'benchmark', SET5) / 'Set5',
        lambda path: folder(path / 'benchmark', SET5) / 'Set5' / 'HR',
        lambda path: folder(path / 'benchmark', SET5).as_uri(),
        lambda path: zipped(path / 'any.zip', {f'benchmark/{name}': data for name, data in SET5.items()}),
        lambda path: zipped(path / 'Set5.zip', {name.split('/')[-1]: data for name, data in SET5.items()}),
        lambda path: tar(path / 'any.tar', {f'./{name}': data for name, data in SET5.items()}),
        lambda path: tar(path / 'any.tar.gz', SET5, 'w:gz'),
        lambda path: tar(path / 'any.tar', SET5).as_uri(),
        lambda path: folder(path / 'photos', {f'{name}.png': SET5[f'Set5/HR/{name}.png'] for name in NAMES}),
        lambda path: folder(
            path / 'Set5',
            {
                f'image_SRF_4/{name}_SRF_4_{kind}.png': SET5[f'Set5/HR/{name}.png']
                for name in NAMES
                for kind in ('HR', 'LR', 'bicubic')
            },
        ),
    ],
    ids=['benchmark', 'set', 'hr', 'folder-url', 'zip', 'zip-named', 'tar', 'tar-gz', 'tar-url', 'unnamed', 'srf'],
)
def test_every_known_layout_gives_the_same(prepare, tmp_path, make):
    succeeded(prepare('set5', '-from', make(tmp_path)))
    assert_set5(tmp_path / 'data')


def test_hr_images_are_told_from_lr_images_other_sets_and_other_files(prepare, tmp_path):
    others = {'Set5/LR_bicubic/X2/' + name.split('/')[-1]: picture(9) for name in SET5}
    others |= {name.replace('Set5', 'Set14'): picture(9) for name in SET5}
    others |= dict.fromkeys(['Set5/HR/.x.png', '__MACOSX/Set5/HR/x.png', 'Set5/HR/Thumbs.db'], b'no image')
    others |= dict.fromkeys(['Set5/HR/LICENSE.pdf', 'Set5/HR/clip.mpg', 'Set5/HR/figure.eps'], b'no image')
    succeeded(prepare('set5', '-from', zipped(tmp_path / 'any.zip', others | SET5)))
    assert_set5(tmp_path / 'data')


def test_several_sets_from_one_source(prepare, tmp_path):
    set14 = {f'Set14/{k}.png': picture(k) for k in range(14)}
    out = succeeded(prepare('set14', 'set5', '-from', tar(tmp_path / 'benchmark.tar', SET5 | set14)))
    assert_set5(tmp_path / 'data')
    assert len(list((tmp_path / 'data/Set14').glob('*.png'))) == 14
    assert len(list((tmp_path / 'data/Set14/LR_bicubic/X4').glob('*x4.png'))) == 14
    assert 'Set5: 5 images' in out and 'Set14: 14 images' in out


def test_b100_is_the_folder_with_100_images_of_the_berkeley_archive(prepare, tmp_path):
    image = picture(0, 'JPEG')
    counts = {'test': 100, 'train': 200}
    files = {f'BSDS300/images/{part}/{k}.jpg': image for part in counts for k in range(counts[part])}
    succeeded(prepare('b100', '-from', tar(tmp_path / 'BSDS300-images.tgz', files, 'w:gz')))
    assert len(list((tmp_path / 'data/B100').glob('*.png'))) == 100
    assert np.array_equal(read_rgb(tmp_path / 'data/B100/0.png'), read_rgb(io.BytesIO(image)))


def test_div2k_has_two_parts_from_sources_of_their_own(prepare, tmp_path):
    image = picture(0)
    train = zipped(tmp_path / 'train.zip', {f'DIV2K_train_HR/{k:04}.png': image for k in range(1, 800)})
    valid = zipped(tmp_path / 'valid.zip', {f'DIV2K_valid_HR/{k:04}.png': image for k in range(801, 901)})
    refused(prepare('div2k', '-from', train, valid), 'DIV2K_train_HR: 800 images are expected', 'has 799')
    assert contents(tmp_path / 'data') == {}
    assert 'DIV2K_train_HR: skipped' in succeeded(prepare('div2k', '-from', valid))
    assert len(list((tmp_path / 'data/DIV2K/DIV2K_valid_LR_bicubic/X3').glob('*x3.png'))) == 100


@pytest.mark.parametrize('kind, mode', [('PNG', 'L'), ('PNG', 'RGBA'), ('PNG', 'P'), ('BMP', 'RGB'), ('JPEG', 'L')])
def test_images_of_any_kind_become_8_bit_png(prepare, tmp_path, kind, mode):
    ending = '.' + kind.lower()
    files = {name.replace('.png', ending): picture(k, kind, mode) for k, name in enumerate(SET5)}
    succeeded(prepare('set5', '-from', folder(tmp_path / 'any', files)))
    for name in NAMES:
        with Image.open(tmp_path / f'data/Set5/{name}.png') as image:
            assert image.format == 'PNG' and image.mode in ('L', 'RGB')
            source = read_rgb(io.BytesIO(files[f'Set5/HR/{name}{ending}']))
            assert np.array_equal(np.asarray(image.convert('RGB')), source)


# ---------------------------------------------------------------- running again


def test_second_run_does_nothing_and_needs_no_source(prepare, tmp_path):
    succeeded(prepare('set5', '-from', folder(tmp_path / 'any', SET5)))
    before = contents(tmp_path / 'data')
    succeeded(prepare('set5', '-from', tmp_path / 'gone'))
    succeeded(prepare('set5'))
    assert contents(tmp_path / 'data') == before


def test_lr_images_are_made_of_hr_images_that_are_there(prepare, tmp_path):
    folder(tmp_path / 'data/Set5', {f'{name}.png': SET5[f'Set5/HR/{name}.png'] for name in NAMES})
    succeeded(prepare('set5'))
    (tmp_path / 'data/Set5/LR_bicubic/X3/birdx3.png').unlink()
    succeeded(prepare('set5'))
    assert_set5(tmp_path / 'data')


@pytest.mark.parametrize('last', range(1, 26, 3))
def test_interrupted_run_leaves_no_half_file_and_is_finished_by_the_next(prepare, tmp_path, monkeypatch, last):
    """Interrupted before the `last` time that a file takes its place: 5 HR images wait, go to their folder, and 15 LR
    images follow."""
    replace, done = os.replace, []

    def interrupting(*paths):
        done.append(paths)
        if len(done) == last:
            raise KeyboardInterrupt
        replace(*paths)

    source = folder(tmp_path / 'any', SET5)
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', interrupting)
        assert prepare('set5', '-from', source)[0] == 130
    there = contents(tmp_path / 'data')
    assert len(there) == (last - 1 if last <= 5 else max(5, last - 6))
    assert last > 5 or not (tmp_path / 'data/Set5').exists()
    for data, _ in there.values():
        assert read_rgb(io.BytesIO(data)).size
    succeeded(prepare('set5', '-from', source))
    after = contents(tmp_path / 'data')
    assert_set5(tmp_path / 'data')
    kept = {name.removeprefix('.').replace('.partial', ''): written for name, (_, written) in there.items()}
    assert all(after[name][1] == written for name, written in kept.items())
    assert not list((tmp_path / 'data').glob('.*'))


def test_images_that_waited_for_others_than_are_taken_now_are_not_mixed_in(prepare, tmp_path):
    folder(tmp_path / 'data/.Set5.partial', {'lenna.png': picture(9)})
    succeeded(prepare('set5', '-from', folder(tmp_path / 'any', SET5)))
    assert_set5(tmp_path / 'data')


# ---------------------------------------------------------------- downloads


def test_download_is_kept_for_other_sets(prepare, tmp_path, served):
    set14 = {f'Set14/HR/{k}.png': picture(k) for k in range(14)}
    file = tar(served.folder / 'benchmark.tar', SET5 | set14)
    checksum = hashlib.sha256(file.read_bytes()).hexdigest().upper()
    succeeded(prepare('set5', '-from', f'{served.url}/benchmark.tar', '-sha256', checksum))
    succeeded(prepare('set14', '-from', f'{served.url}/benchmark.tar'))
    assert_set5(tmp_path / 'data')
    assert served.ranges == [None]
    assert [file.name for file in (tmp_path / 'data/downloads').rglob('*.*')] == ['benchmark.tar']


@pytest.mark.parametrize('change', ['none', 'versionless', 'changed', 'whole'])
def test_interrupted_download_goes_on_unless_the_file_has_changed(prepare, tmp_path, served, change):
    file = tar(served.folder / 'any.tar', SET5)
    size = file.stat().st_size
    served.versions = change != 'versionless'
    served.cuts = [5000]
    refused(prepare('set5', '-from', f'{served.url}/any.tar'), 'ended after 5,000 of', 'run again')
    assert not (tmp_path / 'data/Set5').exists()
    if change == 'changed':
        tar(file, {f'new/{name}': data for name, data in SET5.items()})
    if change == 'whole':  # it was ended between the last byte and the renaming
        (part,) = (tmp_path / 'data/downloads').rglob('*.part')
        part.write_bytes(file.read_bytes())
    succeeded(prepare('set5', '-from', f'{served.url}/any.tar'))
    assert_set5(tmp_path / 'data')
    expected = {
        'none': [None, 'bytes=5000-'],
        'versionless': [None, None],
        'changed': [None, 'bytes=5000-'],
        'whole': [None, f'bytes={size}-', None],
    }
    assert served.ranges == expected[change]
    assert [file.name for file in (tmp_path / 'data/downloads').rglob('*.*')] == ['any.tar']


def test_download_that_is_damaged_is_not_kept(prepare, tmp_path, served):
    file = tar(served.folder / 'any.tar', SET5)
    data = file.read_bytes()
    file.write_bytes(data[:9000])
    url = f'{served.url}/any.tar'
    refused(prepare('set5', '-from', url), 'any.tar: damaged')
    file.write_bytes(b'<html>not here</html>')
    refused(prepare('set5', '-from', url), 'neither a folder nor a zip or tar archive')
    file.write_bytes(data)
    refused(prepare('set5', '-from', url, '-sha256', 'ab' * 32), 'the SHA-256 is', f'not {"ab" * 32}')
    assert contents(tmp_path / 'data') == {}
    succeeded(prepare('set5', '-from', url))
    assert_set5(tmp_path / 'data')


def test_unreachable_addresses_are_refused(prepare, tmp_path, served):
    refused(prepare('set5', '-from', f'{served.url}/nothing.tar'), 'nothing.tar', '404')
    refused(prepare('set5', '-from', 'http://127.0.0.1:9/any.tar'), 'http://127.0.0.1:9/any.tar')
    refused(prepare('set5', '-from', 'http:///any.tar'), 'http:///any.tar')
    assert contents(tmp_path / 'data') == {}


# ---------------------------------------------------------------- refused

FOUR = dict(list(SET5.items())[:4])


@pytest.mark.parametrize(
    'make, said',
    [
        (lambda path: path / 'gone', ['gone', 'no such file or folder']),
        (lambda path: folder(path / 'any', {'Set5/readme.txt': b''}), ['no images of it']),
        (lambda path: folder(path / 'any', FOUR), ['5 images are expected', 'Set5/HR has 4']),
        (lambda path: folder(path / 'any', {'B100/a.png': picture(0)}), ['set5: there are no images of it']),
        (
            lambda path: tar(path / 'any.tar', FOUR | {'../../evil.png': b'x'}),
            ["any.tar: not a safe archive: its member '../../evil.png' lies outside it"],
        ),
        (lambda path: tar(path / 'any.tar', FOUR | {'/etc/evil.png': b'x'}), ["'/etc/evil.png' lies outside it"]),
        (lambda path: zipped(path / 'any.zip', FOUR | {'..\\evil.png': b'x'}), ['any.zip', 'lies outside it']),
        (lambda path: tar(path / 'any.tar', FOUR, links=[('Set5/HR/woman.png', '/etc/passwd')]), ['has 4']),
        (lambda path: tar(path / 'any.tar', FOUR | {'Set5/HR/woman.png': b'text'}), ['Set5: woman: not an image']),
        (
            lambda path: zipped(path / 'any.zip', FOUR | {'Set5/HR/woman.png': picture(4)[:-90]}),
            ['woman: '],
        ),
        (lambda path: cut(zipped(path / 'any.zip', SET5), -90), ['any.zip']),
        (lambda path: cut(tar(path / 'any.tar', SET5), 9000), ['any.tar', 'damaged']),
        (lambda path: cut(tar(path / 'any.tar.gz', SET5, 'w:gz'), -400), ['any.tar.gz', 'damaged']),
        (lambda path: flipped(zipped(path / 'any.zip', SET5), picture(4)), ['Set5/HR/woman.png: damaged']),
    ],
    ids=[
        'gone',
        'empty',
        'count',
        'other-set',
        'parent',
        'absolute',
        'backslash',
        'link',
        'no-image',
        'cut-image',
        'cut-zip',
        'cut-tar',
        'cut-tar-gz',
        'flipped-bit',
    ],
)
def test_bad_sources_are_refused_and_nothing_is_laid_out(prepare, tmp_path, make, said):
    refused(prepare('set5', '-from', make(tmp_path)), *said)
    assert not (tmp_path / 'data').exists() or list((tmp_path / 'data').iterdir()) == []
    assert not list(tmp_path.parent.rglob('evil*'))


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])
    return path


def flipped(path, member):
    """The archive with one bit of `member` flipped, which is stored in it uncompressed."""
    data = bytearray(path.read_bytes())
    data[data.index(member) + len(member) // 2] ^= 1
    path.write_bytes(data)
    return path


def test_absurd_sizes_are_refused(prepare, tmp_path, monkeypatch):
    source = tar(tmp_path / 'any.tar.gz', SET5, 'w:gz')
    monkeypatch.setattr(archives, 'FILE_LIMIT', 1000)
    refused(prepare('set5', '-from', source), 'any.tar.gz: Set5/HR/baby.png: larger than the limit')
    monkeypatch.setattr(archives, 'ARCHIVE_LIMIT', 3000)
    for trap in (source, zipped(tmp_path / 'any.zip', SET5)):
        refused(prepare('set5', '-from', trap), 'holds more than the limit')
    assert list((tmp_path / 'data').iterdir()) == []


def test_damage_in_one_set_leaves_the_images_that_were_there(prepare, tmp_path):
    there = {f'{name}.png': SET5[f'Set5/HR/{name}.png'] for name in NAMES[:2]}
    folder(tmp_path / 'data/Set5', there)
    before = contents(tmp_path / 'data')
    refused(prepare('set5', '-from', folder(tmp_path / 'bad', SET5 | {'Set5/HR/woman.png': b''})), 'woman')
    assert contents(tmp_path / 'data') == before
    other = {name.replace('baby', 'other'): data for name, data in SET5.items()}
    refused(
        prepare('set5', '-from', folder(tmp_path / 'other', other)), 'images that the source does not have', 'baby.png'
    )
    assert contents(tmp_path / 'data') == before
    succeeded(prepare('set5', '-from', folder(tmp_path / 'any', SET5)))
    assert_set5(tmp_path / 'data')


def test_wrong_arguments_are_refused(prepare, tmp_path):
    refused(prepare('set6', '-from', tmp_path), 'set6', 'urban100')
    refused(prepare('set5'), 'set5: there are no images of it', 'README.md')
    refused(prepare('set5', '-from', tmp_path, '-sha256', 'ab', 'cd'), '2 checksums were given for 1 sources')
    refused(prepare('set5', '-from', tmp_path, '-sha256', 'ab'), 'not a file, so it has no checksum')
    refused(prepare('set5', '-from', tar(tmp_path / 'any.tar', SET5), '-sha256', 'ab'), 'any.tar: the SHA-256 is')
    (tmp_path / 'data').write_text('a file')
    refused(prepare('set5', '-from', tmp_path), 'no folder that can be written to')


def test_every_set_of_the_test_configs_is_laid_out_where_they_look():
    roots = [file.read_text() for file in (ROOT / 'configs/test').glob('*.yaml')]
    for name, parts in runpy.run_path(str(ROOT / PROGRAM))['SETS'].items():
        assert any(f'root_path: ./data/{parts[-1].hr},' in text for text in roots), name
