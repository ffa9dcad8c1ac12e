"No clip on two sides, nothing on two sides that was promised to be unseen, and one sentence for a corpus that cannot be dealt so."
import numpy as np, pandas as pd, pytest
from sklearn.model_selection import StratifiedKFold
from ser_fastai.core import SerError
from ser_fastai.corpora import COLUMNS, parse_ravdess
from ser_fastai.splits import FOLDS, PROTOCOLS, Split, check_leaks, leaks, n_folds, plot_split, protocol_on, sentence_folds, split
from ser_fastai.synth import clip_path, clip_plan

EIGHT = 'neutral calm happy sad angry fearful disgust surprised'.split()
SPEAKERS = [p for p, v in PROTOCOLS.items() if 'speaker' in v.unseen and p != 'cross']

def corpus(speakers, emotions=EIGHT, n=4, name='ravdess', genders='mf', sentences='12'):
    "A frame with `n` clips of each speaker in each emotion, who says the sentences in turn."
    rows = [dict(clip=f'{name}/{s}-{e}-{i}', speaker=f'{name}_{s}' if s else None, gender=genders[k % len(genders)] if genders else None, emotion=e,
                 corpus=name, sentence=sentences[i % len(sentences)] if sentences else None, sha=f'{name}/{s}-{e}-{i}')
            for k, s in enumerate(speakers) for e in emotions for i in range(n)]
    return pd.DataFrame(rows, columns=COLUMNS)

def test_a_corpus_of_ones_own_may_be_called_ravdess_something():
    df = pd.concat([corpus('abcdef', name='ravdess_2'), corpus(['01', '04', '09'])], ignore_index=True)
    df['speaker'] = df.speaker.str.replace('/', '_')
    tested = [set(df.speaker[split(df, 'emobox', f).test]) for f in range(n_folds(df, 'emobox'))]
    assert set.union(*tested) == set(df.speaker) and sum(map(len, tested)) == 9 and max(map(len, tested)) < 4

def test_what_is_shared_alone_is_told():
    "Corpora on both sides, but neither a speaker nor a sentence."
    df = pd.concat([corpus('xyz', name=c, sentences=None).assign(sentence=lambda d: d.speaker) for c in 'ab'], ignore_index=True)
    s = Split(*(np.flatnonzero(df.speaker.str[-1] == k) for k in 'xyz'))
    assert 'the score is for a corpus seen in training' in str(leaks(df, s, 'cross', 0))

def real_names():
    "RAVDESS as `load_corpus` gives it: 1440 names, two of them with the same samples."
    df = pd.DataFrame([parse_ravdess(clip_path(c)) for c in clip_plan(24)]).assign(corpus='ravdess', sha=lambda d: d.id)
    df['clip'], df['path'], df['speaker'] = 'ravdess/' + df.id, '/data/ravdess/' + df.id + '.wav', 'ravdess_' + df.speaker
    df = df.sort_values('clip')
    return df[df['clip'] != 'ravdess/Actor_07/03-01-03-01-02-02-07'].reindex(columns=COLUMNS).reset_index(drop=True)

ACTORS = [f'{a:02d}' for a in range(1, 25)]
FRAMES = dict(real=real_names(), ravdess=corpus(ACTORS), joint=pd.concat([corpus(ACTORS), corpus('abcdefghij', EIGHT[:1] + EIGHT[2:7], name='emodb')]),
              men=corpus(['DC', 'JE', 'JK', 'KL'], EIGHT, name='savee', genders='m'), no_gender=corpus('abc', EIGHT[:3], 12, 'own', None),
              two_speakers=corpus('ab', EIGHT[:2], 12, 'own'), few_actors=corpus(['01', '11', '20'], n=4),
              many_sentences=corpus('abcd', EIGHT[:2], 26, 'own', sentences='abcdefghijklm'),
              one_speaker_each=pd.concat([corpus('a', EIGHT[:3], 12, 'own'), corpus('a', EIGHT[1:4], 12, 'yours')]))
DEALT = dict(FRAMES, joint=pd.concat([corpus(ACTORS, n=2), corpus('abcdefghij', EIGHT[:1] + EIGHT[2:7], n=2, name='emodb')]))   # and fewer clips are as good here
del DEALT['real'], DEALT['ravdess']
CASES = [(f, p) for f in DEALT for p in PROTOCOLS if f == 'joint' or (p == 'cross') == (f == 'one_speaker_each')]
rows_of = lambda df, protocol: np.flatnonzero(df.emotion.isin(set.intersection(*df.groupby('corpus').emotion.agg(set)))) if protocol == 'cross' else np.arange(len(df))

@pytest.mark.parametrize('frame,protocol', CASES)
def test_every_deal(frame, protocol):
    df, tested = DEALT[frame].reset_index(drop=True), []
    rows, unseen = rows_of(df, protocol), PROTOCOLS[protocol].unseen
    for fold in range(n_folds(df, protocol)):
        s = split(df, protocol, fold, seed=1)
        assert sorted(np.concatenate(s)) == list(rows) and all(len(p) for p in s)
        for part, again in zip(s, split(df, protocol, fold, seed=1)): assert list(part) == list(again) == sorted(part)
        assert set(df.emotion.iloc[s.train]) == set(df.emotion.iloc[rows])
        for col in unseen:
            name = df.corpus + '/' + df[col].astype(str)
            assert not set(name[s.test]) & set(name[[*s.train, *s.valid]])
        if 'speaker' in unseen:
            train, valid = (set(df.speaker[p]) for p in (s.train, s.valid))
            if len(train | valid) > 2: assert not train & valid and 1 <= len(valid) <= 2 < len(train | valid)
            else: assert train == valid          # a model does not learn from a single voice if there are two
            assert 2*len(s.valid) <= len(s.train)
        assert check_leaks(df, s, protocol, fold).clean == bool(unseen)
        tested += list(s.test)
    if protocol != 'paper': assert sorted(tested) == list(rows)

@pytest.mark.parametrize('n_speakers', [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize('sizes', [[4], [2, 20], [30, 2, 3], [3, 3, 3, 40]])
@pytest.mark.parametrize('genders', ['mf', None])
def test_few_speakers(n_speakers, sizes, genders):
    "Validation takes at most a third, and leaves two voices and all classes, however unequal speakers are."
    df = pd.concat([corpus(s, EIGHT[:3], sizes[i % len(sizes)], 'own').assign(gender=genders and genders[i % len(genders)])
                    for i, s in enumerate('abcdefg'[:n_speakers])], ignore_index=True)
    for fold in range(n_folds(df, 'loso')):
        for seed in range(2):
            s = split(df, 'emobox' if seed else 'loso', fold, seed)
            train, valid = set(df.speaker[s.train]), set(df.speaker[s.valid])
            assert 2*len(s.valid) <= len(s.train) or len(s.valid) == 3     # one clip of each class
            assert df.emotion[s.train].nunique() == 3
            assert len(train) >= min(2, n_speakers - 1) and valid and (not valid & train or valid <= train)
            if n_speakers >= 4 and sizes == [4]: assert not valid & train

def test_a_class_of_one_speaker_is_trained_on():
    df = pd.concat([corpus('abcd', EIGHT[:2], name='own'), corpus('ab', ['awe'], name='own')], ignore_index=True)
    for fold in range(4):
        for seed in range(6): assert 'awe' in set(df.emotion[split(df, 'loso', fold, seed).train])

@pytest.mark.parametrize('frame,protocol,n,said', [
    ('ravdess', 'emobox', 6, 'unseen speakers, the 6 folds of EmoBox'), ('men', 'emobox', 4, 'unseen speakers, 4 folds'), ('men', 'luna', 4, 'unseen speakers, 4 folds'),
    ('joint', 'luna', 5, 'unseen speakers, the 5 folds of Luna-Jimenez 2021'), ('men', 'loso', 4, 'unseen speakers, one per fold, 4 folds'),
    ('men', 'random10', 10, 'random, stratified, 10 folds'), ('men', 'paper', 1, 'random 90/5/5, as in the paper')])
def test_what_a_protocol_is_on_a_corpus(frame, protocol, n, said):
    df = FRAMES[frame]
    assert n_folds(df, protocol) == n and protocol_on(protocol, df.speaker.unique(), n) == said

def test_validation_hears_both_sexes():
    df = FRAMES['ravdess']
    for seed in range(5): assert set(df.gender.iloc[split(df, 'emobox', seed % 6, seed).valid]) == {'m', 'f'}

def test_random_folds_are_those_of_the_peers():
    "1439 distinct clips, sorted by path as our frames are, dealt by StratifiedKFold(10, shuffle=True, random_state=0)."
    df = FRAMES['real']
    assert len(df) == 1439 and df.path.tolist() == sorted(df.path) and df['clip'].tolist() == sorted(df['clip'])
    for fold, (_, test) in enumerate(StratifiedKFold(10, shuffle=True, random_state=0).split(df.path, df.emotion)):
        assert df.path.iloc[split(df, 'random10', fold, seed=0).test].tolist() == df.path.iloc[test].tolist()

def test_two_sentences_are_two_folds():
    df = FRAMES['real']
    for fold, (test, rest) in enumerate((('dogs', 'kids'), ('kids', 'dogs'))):
        s = split(df, 'sentence', fold)
        assert set(df.sentence.iloc[s.test]) == {test} and set(df.sentence.iloc[[*s.train, *s.valid]]) == {rest}
        assert len(s.valid) == 72 and df.emotion.iloc[s.valid].value_counts().between(4, 11).all()
    assert n_folds(df, 'sentence') == 2

def test_many_sentences_are_dealt_over_ten_folds_and_belong_to_their_corpus():
    own, joint = sentence_folds(FRAMES['many_sentences']), sentence_folds(FRAMES['joint'])
    assert own == [['own/a', 'own/k'], ['own/b', 'own/l'], ['own/c', 'own/m'], *([f'own/{s}'] for s in 'defghij')]
    assert joint == [['emodb/1'], ['emodb/2'], ['ravdess/1'], ['ravdess/2']]

def test_cross_tests_corpora_in_alphabetical_order_on_the_classes_that_all_have():
    df = pd.concat([FRAMES['joint'], corpus('xyz', EIGHT[:5], 6, 'apple')], ignore_index=True)
    for fold, name in enumerate(('apple', 'emodb', 'ravdess')):
        s = split(df, 'cross', fold)
        assert set(df.corpus[s.test]) == {name} and set(df.corpus[s.train]) == {'apple', 'emodb', 'ravdess'} - {name}
        for part in s[::2]: assert set(df.emotion[part]) == {'neutral', 'happy', 'sad', 'angry'}
        assert set(df.gender[s.valid]) == {'m', 'f'} and df.speaker[s.valid].nunique() == 2
    assert n_folds(df, 'cross') == 3

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
    'no speakers':        (corpus([None], n=20, name='own'), SPEAKERS, 'has 0: use the paper protocol'),
    'one speaker':        (corpus('a', n=20, name='own'), SPEAKERS, 'has 1'),
    'some speakers':      (corpus(['a', 'b', None], n=20, name='own'), SPEAKERS, '160 of 480 clips have none, e.g. own/None-neutral-0: fill in'),
    'no sentences':       (corpus('ab', n=20, sentences=None), ['sentence'], 'two sentences, but this corpus has 0: .* add a sentence column'),
    'one sentence':       (corpus('ab', n=20, sentences='1'), ['sentence'], 'has 1'),
    'some sentences':     (corpus('ab', n=21, sentences=['1', '2', None]), ['sentence'], '112 of 336 clips have none, e.g. ravdess/a-neutral-2: fill in'),
    'a class a sentence': (pd.concat([corpus('ab', ['sad'], 20, sentences='1'), corpus('ab', ['angry'], 20, sentences='2')]), ['sentence'],
                           'leaves no clip of sad to train on in fold 0'),
    'one corpus':         (FRAMES['ravdess'], ['cross'], 'there is only ravdess: add another'),
    'strangers':          (pd.concat([FRAMES['ravdess'], corpus([None], n=20, name='own')]), ['cross'], '160 of 928 clips have none'),
    'one shared class':   (pd.concat([FRAMES['ravdess'], corpus('ab', ['sad', 'bored'], name='own')]), ['cross'], 'own and ravdess share sad: leave'),
    'no shared class':    (pd.concat([FRAMES['ravdess'], corpus('ab', ['tired', 'bored'], name='own')]), ['cross'], 'own and ravdess share none: leave'),
    'one class':          (corpus('abc', ['angry'], 20, 'own'), [p for p in PROTOCOLS if p != 'cross'], 'every clip is angry'),
    'a class of one':     (pd.concat([corpus('abc', n=20), corpus('a', ['bored'], 1)]), ['paper', 'random10', 'loso', 'sentence'], 'bored'),
    'a class of two':     (pd.concat([corpus('abc', n=20), corpus('a', ['bored'], 2)]), ['paper', 'random10', 'loso', 'sentence'], 'bored'),
    'a class of nine':    (pd.concat([corpus('abc', n=20), corpus('a', ['bored'], 9)]), ['random10'], 'needs 10 clips of each class, but bored has 9'),
    'one clip left each': (pd.concat([corpus('a', EIGHT[:2], 9), corpus('b', EIGHT[:2], 1)]), ['loso'], 'needs? two clips of each class'),
}

@pytest.mark.parametrize('case', REFUSED)
def test_refused_in_one_sentence(case):
    df, protocols, words = REFUSED[case]
    for p in protocols:
        with pytest.raises(SerError, match=words) as e:
            for fold in range(n_folds(df, p)): split(df, p, fold)
        assert str(e.value).endswith('.') and '\n' not in str(e.value)

def test_a_frame_without_speaker_or_sentence_is_never_clean():
    df = corpus([None], n=20, name='own', sentences=None)
    told = str(leaks(df, split(df, 'paper'), 'paper', 0))
    assert told == 'paper fold 0: the speaker of 160 clips and the sentence of 160 clips are not known, so more may be shared than is counted'
    some = FRAMES['ravdess'].assign(sentence=lambda d: d.sentence.where(d.index > 5))
    told = str(leaks(some, split(some, 'emobox'), 'emobox', 0))
    assert 'emobox fold 0: clean: no test speaker and no identical recording in training; sentences are shared; the sentence of 6 clips is not known' == told
    by_hand = Split(*np.split(np.arange(len(some)), [600, 640]))
    assert not leaks(some, by_hand, 'sentence').clean
    with pytest.raises(SerError, match='ravdess/01-neutral-0 has none: fill in the sentence column'):
        check_leaks(some, Split(np.arange(6), *np.split(np.arange(6, 20), 2)), 'sentence')

def test_leaks_agree_with_a_count_one_by_one():
    df = FRAMES['real']
    for protocol, fold, seed in ('paper', 0, 3), ('emobox', 2, 1), ('sentence', 1, 0):
        s = split(df, protocol, fold, seed)
        found, known = leaks(df, s, protocol, fold).shared, df.iloc[[*s.train, *s.valid]]
        twins = sum(((known.speaker == r.speaker) & (known.sentence == r.sentence) & (known.emotion == r.emotion) &
                     (known.intensity == r.intensity)).any() for r in df.iloc[s.test].itertuples())
        assert found['repetition'] == (twins, len(s.test), 0) and found['recording'] == (0, len(s.test), 0)
        heard = set(df.speaker.iloc[s.test])
        assert found['speaker'] == (len(heard & set(known.speaker)), len(heard), 0)
    assert twins == 0 and leaks(df, split(df, 'random10'), 'random10').shared['repetition'].n > 100

def test_validation_counts_as_training():
    df = corpus('ab', EIGHT[:2], 4)
    s = Split(np.array([0, 1]), np.flatnonzero(df.speaker == 'ravdess_b'), np.array([], int))
    s = s._replace(valid=s.valid[:4], test=s.valid[4:])
    assert leaks(df, s).shared['speaker'] == (1, 1, 0)

def test_what_leaks_say():
    df = FRAMES['real']
    told = {p: str(leaks(df, split(df, p), p, 0)) for p in PROTOCOLS if p != 'cross'}
    assert told['emobox'] == 'emobox fold 0: clean: no test speaker and no identical recording in training; sentences are shared'
    assert told['sentence'] == 'sentence fold 0: clean: no test sentence and no identical recording in training; speakers are shared'
    assert told['paper'].startswith('paper fold 0: ') and told['paper'].endswith('the score is for speakers seen in training, not for new ones')
    assert all('\n' not in x for x in told.values())
    assert str(leaks(df, split(df, 'emobox'))).startswith('this split: 2 of 2 sentences are in training: the score is for sentences seen in training')

def test_a_wrong_speaker_column_is_given_away_by_identical_samples():
    df = FRAMES['real']
    copy = df[df.speaker == 'ravdess_01'].head(1).assign(clip='ravdess/copy', speaker='ravdess_02')
    df = pd.concat([df, copy], ignore_index=True)
    for protocol in SPEAKERS:
        fold = next(k for k in range(n_folds(df, protocol)) if 'ravdess_01' in set(df.speaker.iloc[split(df, protocol, k).test]))
        with pytest.raises(SerError, match=f'{protocol} fold {fold} promises an unseen speaker, but ravdess/Actor_01/03-01-01-01-01-01-01 in test '
                                           'and ravdess/copy in training are the same recording: correct the speaker column'):
            check_leaks(df, split(df, protocol, fold), protocol, fold)
    s = split(df, 'random10', fold := next(k for k in range(10) if len(df) - 1 in split(df, 'random10', k).test))
    if 0 not in s.test: assert 'the same recording of 1 of' in str(leaks(df, s)) and 'too high' in str(check_leaks(df, s, 'random10', fold))

def test_a_split_made_by_hand_is_held_to_the_promise():
    df = FRAMES['joint'].reset_index(drop=True)
    s = split(df, 'paper')
    for protocol, words in dict(emobox='promises an unseen speaker, .* both of ravdess_', sentence='unseen sentence, .* both of (ravdess|emodb)/[12]',
                                cross='unseen corpus, .* both of (ravdess|emodb)').items():
        with pytest.raises(SerError, match=words): check_leaks(df, s, protocol)
    with pytest.raises(SerError, match='known: paper'): leaks(df, s, 'papr')

def test_the_picture_shows_what_takes_no_part():
    df = FRAMES['joint'].reset_index(drop=True)
    names = plot_split(df, split(df, 'cross')).get_legend_handles_labels()[1]
    assert names == ['train', 'valid', 'test', 'left out']
    assert plot_split(df, split(df, 'paper')).get_legend_handles_labels()[1][:3] == ['train', 'valid', 'test']

def test_without_speakers_the_random_protocols_work():
    df = corpus([None], n=20, name='own')
    for p in 'paper', 'random10': assert len(split(df, p).train) > 100
    assert plot_split(df, split(df, 'paper')).get_xticklabels()[0].get_text() == 'unknown'

def test_unknown_names():
    with pytest.raises(SerError, match='known: paper, random10, emobox'): split(FRAMES['ravdess'], 'emobx')
    for fold in 6, -1:
        with pytest.raises(SerError, match='folds 0 to 5'): split(FRAMES['ravdess'], 'emobox', fold)
