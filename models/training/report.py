"""What a training run tells while it goes: the progress bar, `log.jsonl`, TensorBoard."""

import contextlib
import time

LOG_EVERY = 100  # steps


class Meter:
    """Mean loss, images per second and the share of time spent waiting for data, since it was made."""

    def __init__(self):
        self.began, self.waited, self.images, self.losses = time.perf_counter(), 0.0, 0, []

    @contextlib.contextmanager
    def waiting(self):
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    @contextlib.contextmanager
    def pause(self):
        """What is done in this block is no training."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def add(self, loss, images):
        """A step's loss, None for one that was skipped, and how many images it took."""
        self.images += images
        if loss is not None:
            self.losses.append(loss)

    def numbers(self):
        seconds = time.perf_counter() - self.began
        loss = {'loss': sum(self.losses) / len(self.losses)} if self.losses else {}
        return {**loss, 'images/s': self.images / seconds, 'waiting': self.waited / seconds}


class Report:
    """The report of one stage of `run`. `writer`: TensorBoard's, None where nothing is to be written; `bar`: tqdm's."""

    def __init__(self, run, writer, bar):
        self.run, self.writer, self.bar = run, writer, bar
        self.stage = run.stages[run.stage]
        self.meter = Meter()

    def took_step(self, loss):
        """`run.step` steps are done; the last one had this loss, or was skipped (None)."""
        run = self.run
        self.meter.add(loss, run.config['batch_size'])
        if loss is None:
            run.log(stage=self.stage['name'], step=run.step - 1, skipped='loss or gradient not finite')
        self.bar.update()
        if run.step % LOG_EVERY == 0 or run.step == self.stage['steps']:
            numbers = {**self.meter.numbers(), 'lr': run.optimizer.param_groups[0]['lr']}
            self.bar.set_postfix({k: f'{v:.4g}' for k, v in numbers.items()})
            self.add_scalars(numbers)
            run.log(stage=self.stage['name'], step=run.step, **numbers)
            self.meter = Meter()

    def validated(self, scores):
        self.add_scalars({f'PSNR {name}': value for name, value in scores.items()})
        self.run.log(stage=self.stage['name'], step=self.run.step, psnr=scores)
        if self.writer:
            self.bar.write(
                f'{self.stage["name"]} step {self.run.step}: ' + ', '.join(f'{k} {v:.3f} dB' for k, v in scores.items())
            )

    def add_scalars(self, numbers):
        if self.writer:
            for name, value in numbers.items():
                self.writer.add_scalar(f'{self.stage["name"]}/{name}', value, self.run.step)

    def add_picture(self, name, picture):
        """`picture (3, h, w)` in [0, 1]."""
        if self.writer:
            self.writer.add_image(f'{self.stage["name"]}/{name}', picture, self.run.step)
