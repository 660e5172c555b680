"""A process that reads images is killed: whatever error this causes, the user sees one line about the process."""

import signal

import pytest
from torch.utils.data import DataLoader

from sam2unet.errors import UserError
from sam2unet.runtime.signals import hold_back
from sam2unet.training.readers import watch_readers


@pytest.mark.parametrize("error", [RuntimeError("of PyTorch"), EOFError(), ConnectionResetError(), ValueError()])
def test_whatever_error_a_killed_reader_causes_the_line_names_the_reader(error):
    loader = DataLoader(range(100), num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    with pytest.raises(UserError, match="process that reads images was ended by the signal Killed; is there enough"):
        with watch_readers(loader):
            next(iter(loader))
            first, second = loader._iterator._workers
            with hold_back(signal.SIGCHLD):
                first.kill()
                if not isinstance(error, (OSError, EOFError)):  # a connection can be lost before the process has ended
                    first.join()
            raise error
    assert not second.is_alive()


def test_an_error_without_a_killed_reader_stays_as_it_is():
    loader = DataLoader(range(100), num_workers=1, persistent_workers=True, multiprocessing_context="fork")
    with pytest.raises(ValueError, match="another"):
        with watch_readers(loader):
            next(iter(loader))
            raise ValueError("another")
