"""Build the page that zooms into a photo: its files, the models exported as ONNX, and onnxruntime-web.

python scripts/page/build.py -ort node_modules/onnxruntime-web -output page         (scripts/page.sh does all of this)
"""

import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

import models  # noqa: E402
from models.export import export, licence_of  # noqa: E402
from models.weights.bundled import blended  # noqa: E402
from utils import Parser, UserError, check_folder, run_main, write_json  # noqa: E402

SERVED = '*.html', '*.css', '*.js'
RUNTIME = (
    'ort.wasm.min.mjs',
    'ort-wasm-simd-threaded.mjs',
    'ort-wasm-simd-threaded.wasm',  # processor
    'ort.webgpu.min.mjs',
    'ort-wasm-simd-threaded.asyncify.mjs',
    'ort-wasm-simd-threaded.asyncify.wasm',
)
PHOTO = ROOT / 'scripts' / 'demo.png'
LIGHT = 'light_MSIT.pth', 'EDSR_light_MSIT.pth'  # the first of these that exists
CLEANING = 'photo_MSIT.pth'
STOPS = 0, 0.25, 0.5, 0.75, 1  # of the cleaning dial: shares of the cleaning weights in the blend


def parse():
    parser = Parser('Build the page that zooms into a photo.')
    parser.add_argument('-ort', required=True, type=Path, metavar='FOLDER', help='onnxruntime-web, as npm installs it')
    parser.add_argument('-output', required=True, type=Path, metavar='FOLDER', help='replaced if a page is there')
    parser.add_argument(
        '-modelzoo',
        type=Path,
        default=ROOT / 'modelzoo',
        metavar='FOLDER',
        help='light_MSIT.pth or EDSR_light_MSIT.pth and, if there, photo_MSIT.pth',
    )
    parser.add_argument('-debug', action='store_true', help='show the traceback of an error')
    return parser.parse_args()


def main(args):
    runtime = [args.ort / 'dist' / name for name in RUNTIME]
    for file in runtime:
        if not file.is_file():
            raise UserError(f'{file} is missing: {args.ort} is not onnxruntime-web as npm installs it')
    if (
        args.output.exists()
        and any(args.output.iterdir() if args.output.is_dir() else [args.output])
        and not (args.output / 'weights.json').is_file()
    ):
        raise UserError(f'{args.output} exists and is not a built page; choose another folder')
    check_folder(args.output.absolute())
    args.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.absolute().parent, prefix='.page-', suffix='.partial') as made:
        made = Path(made) / 'page'
        build(made, args.modelzoo, runtime)
        if args.output.exists():
            shutil.rmtree(args.output)
        made.rename(args.output)
    size = sum(file.stat().st_size for file in args.output.rglob('*') if file.is_file())
    print(f'{args.output}: {size / 1e6:.1f} MB; any server of files can serve it, from any path')


def build(folder, modelzoo, runtime):
    """Build the page in a new folder."""
    (folder / 'ort').mkdir(parents=True)
    for pattern in SERVED:
        for file in HERE.glob(pattern):
            shutil.copy(file, folder)
    for file in runtime:
        shutil.copy(file, folder / 'ort')
    shutil.copy(PHOTO, folder / 'photo.png')
    light = next((modelzoo / name for name in LIGHT if (modelzoo / name).is_file()), None)
    if light is None:
        raise UserError(f'{modelzoo}: contains neither {LIGHT[0]} nor {LIGHT[1]}')
    cleaning = modelzoo / CLEANING
    if cleaning.is_file():
        blended(0.5, light, cleaning)  # says at once if it cannot be done
    offered = [
        {
            'name': 'light',
            'label': 'light: clean images',
            'for_lossy': False,  # files compressed with loss
            'clean': 0,
            'stops': [exported(light, folder, 'light', 0)],
        }
    ]
    if cleaning.is_file():
        stops = [exported(light, folder, f'photo_{round(100 * share)}', share, cleaning) for share in STOPS[1:]]
        offered.append(
            {
                'name': 'photo',
                'label': 'photo: with noise or JPEG',
                'for_lossy': True,
                'clean': 1,
                'stops': [{**offered[0]['stops'][0], 'clean': 0}, *stops],
            }
        )
    write_json(folder / 'weights.json', {'weights': offered})


def exported(light, folder, name, clean, photo=None):
    """Export a stop of the cleaning dial: the weights of `light` (`clean` 0), of `photo` (1), or their blend."""
    print(f'exporting {name}', flush=True)
    model = blended(clean, light, photo)
    ends = ([light] if clean < 1 else []) + ([photo] if clean > 0 else [])
    licences = [licence_of(models.load(end), end) for end in ends]
    into = folder / 'models' / name
    into.mkdir(parents=True)
    export(model, into, ends[0], licence='; '.join(dict.fromkeys(filter(None, licences))) or None)
    return {'clean': clean, 'folder': f'models/{name}'}


if __name__ == '__main__':
    arguments = parse()
    run_main(lambda: main(arguments), arguments.debug)
