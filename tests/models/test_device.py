"""How much memory there is, and what programs tell the C library of it."""

import platform
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from models import device

CPU = torch.device('cpu')
VERSIONS = {
    1: ('4:memory,cpu:', 'memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
    2: ('0::', '', 'memory.max', 'memory.current', 'inactive_file'),
}


def group(root, version, path, limit, used, reclaimable):
    """Write the files of a control group."""
    _, controller, *names = VERSIONS[version]
    folder = root / 'sys/fs/cgroup' / controller / path
    folder.mkdir(parents=True)
    (folder / names[0]).write_text(f'{limit}\n')
    (folder / names[1]).write_text(f'{used}\n')
    (folder / 'memory.stat').write_text(f'anon 5\n{names[2]} {reclaimable}\n')


@pytest.mark.parametrize('version', VERSIONS)
def test_the_limits_of_a_control_group_and_of_those_around_it_hold(tmp_path, version):
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text(f'1:name=systemd:/\n{VERSIONS[version][0]}/jobs/7\n')
    group(tmp_path, version, 'jobs', 1000, 400, 50)
    group(tmp_path, version, 'jobs/7', 'max' if version == 2 else 2**63 - 4096, 300, 0)
    assert min(device.group_memory(tmp_path)) == 1000 - 400 + 50


@pytest.mark.parametrize('version', VERSIONS)
def test_a_container_sees_its_own_group_at_the_top(tmp_path, version):
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text(f'{VERSIONS[version][0]}/docker/1f\n')
    group(tmp_path, version, '', 900, 100, 0)
    assert device.group_memory(tmp_path) == [800]


def test_without_groups_there_is_no_limit(tmp_path):
    assert device.group_memory(tmp_path) == []
    (tmp_path / 'proc/self').mkdir(parents=True)
    (tmp_path / 'proc/self/cgroup').write_text('0::/\n')
    assert device.group_memory(tmp_path) == []


def test_free_memory_is_the_least_of_all(monkeypatch):
    monkeypatch.setattr(device, 'system_memory', lambda: 700)
    for groups, free in (([], 700), ([900, 500], 500), ([-3], 0)):
        monkeypatch.setattr(device, 'group_memory', lambda: groups)
        assert device.free_memory(CPU) == free


def test_elsewhere_psutil_tells_or_nothing(monkeypatch):
    def none(*arguments, **options):
        raise FileNotFoundError

    monkeypatch.setattr('builtins.open', none)
    psutil = type(sys)('psutil')
    psutil.virtual_memory = lambda: type('Memory', (), {'available': 123})
    monkeypatch.setitem(sys.modules, 'psutil', psutil)
    assert device.system_memory() == 123
    monkeypatch.setitem(sys.modules, 'psutil', None)  # not installed
    assert device.system_memory() == 2 * 2**30


FAULTS = """
import resource, sys, torch
from models.device import keep_memory
if sys.argv[1] == 'kept':
    keep_memory()
for _ in range(20):
    [torch.zeros(3 * 2**20) for _ in range(4)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def test_freed_memory_is_kept():
    """Four times 12 MB, 20 times, which glibc by itself gives back to the system each time."""
    pytest.importorskip('resource')
    if platform.libc_ver()[0] != 'glibc':
        pytest.skip('only the allocator of glibc can be told to keep memory')
    before, after = (
        int(subprocess.run([sys.executable, '-c', FAULTS, how], cwd=ROOT, capture_output=True, check=True).stdout)
        for how in ('new', 'kept')
    )
    assert after < before - 10 * 48 * 2**20 / 2**16  # in pages of at most 64 KiB
