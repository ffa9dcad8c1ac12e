"A training step of a network: fastai's learner as it comes, in fp32, beside ours with `speed_cbs`, and with what is freed kept in memory."
import time, warnings
warnings.filterwarnings('ignore', category=FutureWarning)
import numpy as np, pandas as pd, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.vision.all import Callback, accuracy, default_device, vision_learner
from fastcore.script import call_parse
from ser_fastai.core import EMOTIONS, Recipe, seed_all
from ser_fastai.data import spectrogram_dls
from ser_fastai.features import Features
from ser_fastai.models.cnn import cnn_learner, find_arch
from ser_fastai.results import to_markdown
from ser_fastai.splits import Split
from ser_fastai.train import has_bf16, keep_memory, speed_cbs

class Clock(Callback):
    "Seconds of every training step: forward, backward and update, without loading."
    order = 90
    def __init__(self): self.steps = []
    def _now(self):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()
    def before_batch(self): self.start = self._now()
    def after_batch(self):
        if self.training: self.steps.append([b - a for a, b in zip(self.start, self._now())])

def made_up(n, n_frames=250):
    "Spectrograms of noise; what is in them takes no time."
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(clip=[str(i) for i in range(n)], emotion=[EMOTIONS[i % 8] for i in range(n)]))
    frames = rng.normal(scale=20, size=(n_frames, 128)).astype('float32')
    return df, Features(frames, {c: (0, n_frames) for c in df['clip']}, dict(sr=16000, hop_length=192))

@call_parse
def main(
    arch: str = 'resnet34', # Architecture
    size: int = 128,        # Height and width of the image, pixels
    bs: int = 64,           # Batch size
    steps: int = 4,         # Steps a turn; the first of each turn is not counted
    reps: int = 3           # Turns each
):
    "Images a second in training, stock and ours in turns."
    device = default_device()
    df, feats = made_up(bs*steps + 2)
    dls = spectrogram_dls(df, feats, Split(np.arange(bs*steps), np.arange(bs*steps, len(df)), []), Recipe('benchmark', bs=bs), size)
    cbs = {'fastai, fp32': [], 'channels last': [ChannelsLast()], 'channels last, bf16': speed_cbs(device)}
    if not has_bf16(device): cbs.popitem()
    learners = {}
    for name, cb in cbs.items():
        seed_all(0)
        learners[name] = cnn_learner(dls, arch) if cb else vision_learner(dls, find_arch(arch), pretrained=False, metrics=accuracy)
        learners[name].add_cbs(cb)
    took = {}
    def turns(names, said=''):
        for i in range(reps):
            for name in names[i % len(names):] + names[:i % len(names)]:
                clock = Clock()
                with learners[name].no_bar(), learners[name].no_logging(): learners[name].fit(1, cbs=clock)
                took.setdefault(name + said, []).extend(clock.steps[1:] or clock.steps)
    turns(list(cbs))
    keep_memory()          # of the whole process, so it comes last
    turns(list(cbs)[-1:], ', memory kept')
    wall, processor = ({k: np.median([x[j] for x in v]) for k, v in took.items()} for j in (0, 1))
    where = torch.cuda.get_device_name() if device.type == 'cuda' else f'{torch.get_num_threads()} threads of this processor'
    print(f'{arch}, {size} pixels, batches of {bs}, on {where}; medians of {len(took["fastai, fp32"])} steps, in turns')
    print(f'bf16 instructions: {"yes" if has_bf16(device) else "none here, so ours trains in fp32 and the gain of bf16 cannot be measured"}')
    print(to_markdown(pd.DataFrame([{'': k, 'images a second': f'{bs/wall[k]:.1f}', 'times as fast': f'{wall["fastai, fp32"]/wall[k]:.2f}',
        'processor ms an image': f'{1000*processor[k]/bs:.1f}', 'times less': f'{processor["fastai, fp32"]/processor[k]:.2f}'} for k in took])))
