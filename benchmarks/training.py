"Speed of a training step: fastai's default learner in fp32, and ours with `speed_callbacks`."
import time, warnings
warnings.filterwarnings('ignore', category=FutureWarning)
import numpy as np, pandas as pd, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import Callback, accuracy, default_device, vision_learner
from fastcore.script import call_parse
from ser_fastai.core import EMOTIONS, seed_all
from ser_fastai.recipes import Recipe
from ser_fastai.data import spectrogram_dls
from ser_fastai.features import Features
from ser_fastai.models.cnn import cnn_learner, find_arch
from ser_fastai.tables import to_markdown
from ser_fastai.splits import Split
from ser_fastai.train import reuse_freed_memory, speed_callbacks, use_bf16

class Clock(Callback):
    "Wall and processor time of each training step (s): forward, backward and update, without loading."
    order = 90
    def __init__(self): self.steps = []
    def _now(self):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
    def before_batch(self): self.start = self._now()
    def after_batch(self):
        if self.training: self.steps.append([b - a for a, b in zip(self.start, self._now())])

def random_spectrograms(n, n_frames=250):
    "A corpus frame with random log-mels, which take as long as real ones."
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(clip=[str(i) for i in range(n)], emotion=[EMOTIONS[i % 8] for i in range(n)]))
    frames = rng.normal(scale=20, size=(n_frames, 128)).astype('float32')
    return df, Features(frames, {c: (0, n_frames) for c in df['clip']}, dict(sr=16000, hop_length=192))

@call_parse
def main(
    arch: str = 'resnet34', # Architecture
    size: int = 128,        # Height and width of the image, pixels
    bs: int = 64,           # Batch size
    steps: int = 4,         # Steps per turn; the first of each turn is not counted
    reps: int = 3           # Turns per learner
):
    "Images per second in training, for fastai's learner and ours in alternation."
    device = default_device()
    df, feats = random_spectrograms(bs*steps + 2)
    s = Split(np.arange(bs*steps), np.arange(bs*steps, len(df)), [])
    dls = spectrogram_dls(df, feats, s, Recipe('benchmark', bs=bs), size)
    cbs = {'fastai, fp32': [], 'channels last': [ChannelsLast()],
           'channels last, bf16': speed_callbacks(device)}
    if not use_bf16(device): cbs.popitem()
    learners = {}
    for name, cb in cbs.items():
        seed_all(0)
        if cb: learners[name] = cnn_learner(dls, arch)
        else: learners[name] = vision_learner(dls, find_arch(arch), pretrained=False, metrics=accuracy)
        learners[name].add_cbs(cb)
    times = {}
    def run_turns(names, suffix=''):
        for i in range(reps):
            for name in names[i % len(names):] + names[:i % len(names)]:
                clock = Clock()
                with learners[name].no_bar(), learners[name].no_logging(): learners[name].fit(1, cbs=clock)
                times.setdefault(name + suffix, []).extend(clock.steps[1:] or clock.steps)
    run_turns(list(cbs))
    reuse_freed_memory()          # affects the whole process, so it comes last
    run_turns(list(cbs)[-1:], ', memory kept')
    wall, processor = ({k: np.median([x[j] for x in v]) for k, v in times.items()} for j in (0, 1))
    cuda = device.type == 'cuda'
    where = torch.cuda.get_device_name() if cuda else f'{torch.get_num_threads()} CPU threads'
    n = len(times['fastai, fp32'])
    print(f'{arch}, {size} pixels, batches of {bs}, on {where}; medians of {n} steps')
    precision = 'bf16' if use_bf16(device) else 'fp32 (no bf16 instructions, or SER_BF16=0)'
    print(f'precision of our training steps: {precision}')
    base = 'fastai, fp32'
    rows = [{'': k, 'images per second': f'{bs/wall[k]:.1f}', 'speed-up': f'{wall[base]/wall[k]:.2f}',
             'processor ms per image': f'{1000*processor[k]/bs:.1f}',
             'processor speed-up': f'{processor[base]/processor[k]:.2f}'}
            for k in times]
    print(to_markdown(pd.DataFrame(rows)))
