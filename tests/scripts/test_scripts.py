"""The set-up of the two commands, with a fake Python that only logs its arguments."""

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

FAKE = """#!/bin/sh
# -m venv --clear FOLDER puts a copy of this into FOLDER/bin; -m pip fails where the file `offline` exists.
echo "$@" >> "$LOG"
case "$*" in
    *'-m venv'*) mkdir -p "$4/bin"; rm -f "$4/bin/python"; cp "$0" "$4/bin/python" ;;
    *'-m pip'*) test ! -e "$(dirname "$LOG")/offline" ;;
    *version_info*) test -z "$OLD" ;;
    --version) echo 'Python 3.9.9' ;;
esac
"""
TOOLS = ['bash', 'cmp', 'cp', 'dirname', 'mkdir', 'rm', 'sh']  # all that the scripts may need besides Python
CHECKS = ['-m ruff check', '-m ruff format --check', '-m mypy']
needs_bash = pytest.mark.skipif(not all(map(shutil.which, TOOLS)), reason='there is no bash')


@pytest.fixture
def project(tmp_path):
    """A copy of the scripts in a folder with a space, and `bin`, the only programs: the tools and a fake Python."""
    folder = tmp_path / 'my project'
    shutil.copytree(ROOT / 'scripts', folder / 'scripts', ignore=shutil.ignore_patterns('*.py', '__pycache__'))
    (folder / 'tests').mkdir()
    (folder / 'requirements.txt').write_text('torch\n')
    (folder / 'tests/requirements.txt').write_text('pytest\n')
    (folder / 'bin').mkdir()
    for tool in TOOLS:
        (folder / 'bin' / tool).symlink_to(shutil.which(tool))
    (folder / 'bin/python3').write_text(FAKE)
    (folder / 'bin/python3').chmod(0o755)
    return folder


def run(project, script, *arguments, cwd='/', old='', device='cuda'):
    """The finished process, and the arguments of each call of Python."""
    log = project / 'log'
    log.write_text('')
    command = [shutil.which('bash'), os.path.relpath(project / 'scripts' / script, cwd), *arguments]
    environment = {'PATH': str(project / 'bin'), 'LOG': str(log), 'OLD': old, 'DEVICE': device}
    done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    return done, [line for line in log.read_text().splitlines() if not line.startswith(('-c', '--version'))]


@needs_bash
@pytest.mark.parametrize('script', sorted([*ROOT.glob('scripts/*.sh'), ROOT / '.ci/run']), ids=lambda p: p.name)
def test_syntax(script):
    subprocess.run(['bash', '-n', script], check=True)


@needs_bash
def test_set_up_is_done_once(project):
    done, asked = run(project, 'demo.sh')
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in asked[:2]] == ['venv', 'pip']
    assert asked[1].endswith('my project/requirements.txt')
    assert asked[2].startswith(f'{project}/demo.py') and len(asked) == 3

    (project / 'offline').touch()
    done, asked = run(project, 'demo.sh', cwd=project / 'tests')
    assert done.returncode == 0 and len(asked) == 1 and 'demo.py' in asked[0]


@needs_bash
def test_only_what_is_missing_or_changed_is_installed(project):
    run(project, 'demo.sh')
    done, asked = run(project, 'test.sh', '-k', 'some test')
    assert done.returncode == 0 and asked[0].endswith('project/tests/requirements.txt')
    assert asked[1:] == [*CHECKS, '-m pytest -q -n auto --dist loadfile -k some test']

    (project / 'requirements.txt').write_text('torch\neinops\n')
    _, asked = run(project, 'test.sh')
    assert asked[0].endswith('project/requirements.txt') and asked[1:] == [
        *CHECKS,
        '-m pytest -q -n auto --dist loadfile',
    ]


@needs_bash
def test_failed_installation_is_said_and_tried_again(project):
    (project / 'offline').touch()
    done, asked = run(project, 'demo.sh')
    assert done.returncode == 1 and 'requirements.txt could not be installed' in done.stderr
    assert not any('demo.py' in line for line in asked)

    (project / 'offline').unlink()
    done, asked = run(project, 'demo.sh')
    assert done.returncode == 0 and [line.split()[1] for line in asked[:1]] == ['pip']


@needs_bash
def test_broken_environment_is_made_again(project):
    run(project, 'demo.sh')
    (project / '.venv/bin/python').unlink()
    (project / '.venv/bin/python').symlink_to(project / 'gone')
    _, asked = run(project, 'demo.sh')
    assert 'venv' in asked[0]


@needs_bash
def test_old_python_is_refused_in_one_line(project):
    done, asked = run(project, 'demo.sh', old='yes')
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and '3.10' in done.stderr and '3.9.9' in done.stderr
    assert not asked and not (project / '.venv').exists()


@needs_bash
@pytest.mark.parametrize('failing', [*CHECKS, '-m pytest -q -n auto --dist loadfile'])
def test_a_failure_of_any_part_is_the_script_s_and_stops_no_other(project, failing):
    run(project, 'test.sh')
    fake = project / '.venv/bin/python'
    fake.write_text(f'#!/bin/sh\necho "$*" >> "$LOG"\ntest "$*" != "{failing}" || exit 5\n')
    done, asked = run(project, 'test.sh')
    assert done.returncode == 5 and asked == [*CHECKS, '-m pytest -q -n auto --dist loadfile']


@needs_bash
def test_the_page_is_fetched_built_and_served(project):
    npm = project / 'bin' / 'npm'
    npm.write_text('#!/bin/sh\necho npm "$@" >> "$LOG"\ntest ! -e "$(dirname "$LOG")/offline"\n')
    npm.chmod(0o755)
    (project / 'offline').touch()
    done, asked = run(project, 'page.sh')
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'could not be fetched' in done.stderr
    (project / 'offline').unlink()

    done, asked = run(project, 'page.sh')
    assert done.returncode == 0, done.stderr
    assert asked[0].startswith('npm ci') and [line.split()[1] for line in asked[1:4]] == ['venv', 'pip', 'pip']
    assert asked[3].endswith('scripts/page/requirements.txt') and len(asked) == 6
    assert 'scripts/page/build.py' in asked[4] and asked[4].endswith(f'-output {project}/page')
    assert asked[5] == f'{project}/scripts/page/serve.py {project}/page'

    done, asked = run(project, 'page.sh', '-build', 'some folder')
    assert done.returncode == 0 and len(asked) == 1 and asked[0].endswith('-output some folder')


@needs_bash
@pytest.mark.parametrize('arguments, said', [(['-build'], 'usage'), (['-port', '1'], 'usage'), ([], 'npm is needed')])
def test_mistakes_with_the_page(project, arguments, said):
    done, asked = run(project, 'page.sh', *arguments)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and said in done.stderr and not asked


CUDA = {
    'suite': ['-m pytest -q -rs tests/test_cuda.py -k some'],
    'benchmark': 2 * ['scripts/benchmark.py'],
    'steps': 3 * ['train.py -config configs/train/train_edsr_baseline_MsIT_photos.yaml -profile -device cpu'],
    'train': ['train.py -config configs/train/train_edsr_baseline_MsIT_photos.yaml -name EDSR_MSIT -device cpu'],
    'train-light': ['train.py -config configs/train/train_light_MSIT_gpu.yaml -name light_MSIT -device cpu'],
    'train-photo': ['train.py -config configs/train/train_photo_MSIT_gpu.yaml -name photo_texture -device cpu'],
    'train-liif': ['train.py -config configs/train/train_edsr_baseline_liif_photos.yaml -name EDSR_LIIF -device cpu'],
    'train-rdn': ['train.py -config configs/train/train_rdn_baseline_MsIT_photos.yaml -name RDN_MSIT -device cpu'],
    'weights': ['scripts/average.py save/EDSR_MSIT/stage2.pth -half', 'scripts/evaluate.py'],
}


@needs_bash
@pytest.mark.parametrize('what', CUDA)
def test_what_needs_a_cuda_device_is_one_command(project, what):
    done, asked = run(project, 'cuda.sh', what, '-k', 'some', device='cpu')
    assert done.returncode == 0, done.stderr
    called = [line for line in asked if '-m pip' not in line and '-m venv' not in line]
    assert len(called) == len(CUDA[what]) and called[-1].endswith('-k some')
    for line, beginning in zip(called, CUDA[what]):
        assert line.startswith(beginning)
        named = [word for word in line.split() if word.endswith(('.py', '.yaml'))]
        assert named and all((ROOT / word).is_file() for word in named)


@needs_bash
def test_a_training_on_a_cuda_device_goes_on(project):
    (project / 'save/EDSR_MSIT').mkdir(parents=True)
    _, asked = run(project, 'cuda.sh', 'train', '-time-limit', '10')
    assert asked[-1].endswith('-name EDSR_MSIT -device cuda -resume -time-limit 10')
    done, asked = run(project, 'cuda.sh', 'dance')
    assert done.returncode == 2 and done.stderr.startswith('usage: bash ') and not asked
