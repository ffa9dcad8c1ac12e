"No clip on two sides, no speaker on two sides where that is promised, and one sentence for a corpus that cannot be dealt so."
import numpy as np, pandas as pd, pytest
from ser_fastai.core import SerError
from ser_fastai.splits import FOLDS, PROTOCOLS, n_folds, plot_split, split

EIGHT = 'neutral calm happy sad angry fearful disgust surprised'.split()

def corpus(speakers, emotions=EIGHT, n=4, name='ravdess', genders='mf'):
    rows = [dict(clip=f'{name}/{s}-{e}-{i}', speaker=f'{name}_{s}' if s else None, gender=genders[k % len(genders)] if genders else None, emotion=e)
            for k, s in enumerate(speakers) for e in emotions for i in range(n)]
    return pd.DataFrame(rows)

ACTORS = [f'{a:02d}' for a in range(1, 25)]
FRAMES = dict(ravdess=corpus(ACTORS), joint=pd.concat([corpus(ACTORS), corpus('abcdefghij', EIGHT[:1] + EIGHT[2:7], name='emodb')]),
              men=corpus(['DC', 'JE', 'JK', 'KL'], EIGHT, name='savee', genders='m'), no_gender=corpus('abc', EIGHT[:3], 12, 'own', None),
              two_speakers=corpus('ab', EIGHT[:2], 12, 'own'), few_actors=corpus(['01', '11', '20'], n=4))

@pytest.mark.parametrize('frame', FRAMES)
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_every_deal(frame, protocol):
    df, tested = FRAMES[frame], []
    for fold in range(n_folds(df, protocol)):
        s = split(df, protocol, fold, seed=1)
        assert sorted(np.concatenate(s)) == list(range(len(df))) and all(len(p) for p in s)
        assert set(df.emotion.iloc[s.train]) == set(df.emotion)
        if PROTOCOLS[protocol].unseen:
            train, valid, test = (set(df.speaker.iloc[p]) for p in s)
            assert not test & (train | valid)
            if len(train | valid) > 1: assert not train & valid and 1 <= len(valid) <= 2
        tested += list(s.test)
    if protocol != 'paper': assert sorted(tested) == list(range(len(df)))

def test_validation_hears_both_sexes():
    df = FRAMES['ravdess']
    for seed in range(5): assert set(df.gender.iloc[split(df, 'emobox', seed % 6, seed).valid]) == {'m', 'f'}

@pytest.mark.parametrize('protocol', FOLDS)
def test_published_folds_stay_when_corpora_join(protocol):
    for fold in range(len(FOLDS[protocol])):
        tested = [set(df.speaker.iloc[split(df, protocol, fold).test]) for df in (FRAMES['ravdess'], FRAMES['joint'])]
        assert tested[0] == {s for s in tested[1] if s.startswith('ravdess')} == {f'ravdess_{a:02d}' for a in FOLDS[protocol][fold]}
        assert tested[1] - tested[0]

def test_the_order_of_rows_does_not_move_a_speaker():
    df = FRAMES['ravdess']
    mixed = df.sample(frac=1, random_state=0)
    for fold in range(6):
        assert [set(df['clip'].iloc[p]) for p in split(df, 'emobox', fold, 3)] == [set(mixed['clip'].iloc[p]) for p in split(mixed, 'emobox', fold, 3)]

def test_paper_shares():
    df = FRAMES['ravdess']
    s = split(df, 'paper')
    assert [len(p) for p in s] == [len(df) - 76, 38, 38]
    assert df.emotion.iloc[s.test].value_counts().between(4, 5).all()

REFUSED = {
    'no speakers':        (corpus([None], n=20, name='own'), ['emobox', 'luna', 'loso'], 'names 0: use the paper protocol'),
    'one speaker':        (corpus('a', n=20, name='own'), ['emobox', 'luna', 'loso'], 'names 1'),
    'some speakers':      (corpus(['a', 'b', None], n=20, name='own'), ['emobox', 'luna', 'loso'], 'None-neutral-0 and 159 more name none'),
    'one class':          (corpus('abc', ['angry'], 20, 'own'), list(PROTOCOLS), 'every clip is angry'),
    'a class of one':     (pd.concat([corpus('abc', n=20), corpus('a', ['bored'], 1)]), ['paper', 'random10', 'loso'], 'bored'),
    'a class of two':     (pd.concat([corpus('abc', n=20), corpus('a', ['bored'], 2)]), ['paper', 'random10', 'loso'], 'bored'),
    'one clip left each': (pd.concat([corpus('a', EIGHT[:2], 9), corpus('b', EIGHT[:2], 1)]), ['loso'], 'needs? two clips of each class'),
}

@pytest.mark.parametrize('case', REFUSED)
def test_refused_in_one_sentence(case):
    df, protocols, words = REFUSED[case]
    for p in protocols:
        with pytest.raises(SerError, match=words) as e:
            for fold in range(n_folds(df, p)): split(df, p, fold)
        assert '\n' not in str(e.value)

def test_without_speakers_the_random_protocols_work():
    df = corpus([None], n=20, name='own')
    for p in 'paper', 'random10': assert len(split(df, p).train) > 100
    assert plot_split(df, split(df, 'paper')).get_xticklabels()[0].get_text() == 'unknown'

def test_unknown_names():
    with pytest.raises(SerError, match='known: paper, random10, emobox'): split(FRAMES['ravdess'], 'emobx')
    for fold in 6, -1:
        with pytest.raises(SerError, match='folds 0 to 5'): split(FRAMES['ravdess'], 'emobox', fold)
