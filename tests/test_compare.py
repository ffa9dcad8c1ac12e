"Systems side by side: whole folds only, pairs that are pairs, peers that are what they say, and the card of a run."
import shutil
import numpy as np, pandas as pd, pytest
from dataclasses import replace
from ser_fastai import compare as C, results as R
from ser_fastai.cards import in_short, run_card
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.recipes import Recipe
from ser_fastai.metrics import accuracy, uar

ACTORS = [1, 11, 4, 10, 8, 9, 3, 5, 2, 15, 6, 13]   # two of each fold of EmoBox
SVM, BASE = Recipe('svm', model='svm'), Recipe('ablation', arch='squeezenet1_1')

@pytest.fixture(scope='module')
def corpus():
    rows = [(f'ravdess/{a:02}/{e}-{s}-{i}', 'ravdess', f'ravdess_{a:02}', 'female' if a % 2 == 0 else 'male', e, i, s, '1', 3.2)
            for a in ACTORS for e in EMOTIONS for s in ('dogs', 'kids') for i in ('normal', 'strong') if (e, i) != ('neutral', 'strong')]
    return pd.DataFrame(rows, columns=R.CLIPS)

def predict(df, right, seed):
    rng = np.random.default_rng(seed)
    guess = np.where(rng.random(len(df)) < right, df.emotion, rng.choice(EMOTIONS, len(df)))
    p = pd.DataFrame(.6*(guess[:, None] == np.array(EMOTIONS)) + .4/8, columns=EMOTIONS)
    return pd.concat([df[['clip']].assign(truth=df.emotion).reset_index(drop=True), p], axis=1)

def save(results, df, recipe, right, folds=range(6), seeds=(0,), protocol='emobox'):
    from ser_fastai.splits import FOLDS
    for f in folds:
        for s in seeds:
            test = df[df.speaker.isin([f'ravdess_{a:02}' for a in FOLDS['emobox'][f]])]
            valid = df[df.speaker.isin([f'ravdess_{a:02}' for a in FOLDS['emobox'][(f + 1) % 6]])]
            facts = dict(run=R.run_id(recipe, 'ravdess', protocol, f, s), **R.recipe_facts(recipe), corpora='ravdess', test_corpora='ravdess', protocol=protocol,
                         fold=f, seed=s, n_params=1, n_train=9, seconds=1., device='cpu', versions={}, commit='')
            R.save_run(facts, predict(test, right, 10*f + s), predict(valid, right, 10*f + s + 5), None, df, results)

@pytest.fixture(scope='module')
def made(corpus, tmp_path_factory):
    d = tmp_path_factory.mktemp('results')
    save(d, corpus, SVM, .5)
    save(d, corpus, Recipe('lstm', model='lstm'), .9, folds=range(5))      # a fold is missing
    save(d, corpus, BASE, .4, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation+noise', bs=32), .8, seeds=(0, 1))
    save(d, corpus, replace(BASE, name='ablation-mixup', bs=16), .4, seeds=(0, 1))
    (d/'peers').mkdir()
    peer = corpus[['clip']].assign(truth=corpus.emotion, opensmile_egemaps_svm=np.roll(corpus.emotion, 1), emocatcher=corpus.emotion)
    peer.to_csv(d/'peers'/'emobox.csv', index=False)
    return d

def test_a_model_counts_when_every_fold_is_scored(made):
    s = C.systems(R.Results(made), 'emobox')
    assert list(s.recipe) == ['svm', 'opensmile_egemaps_svm', 'emocatcher'] and list(s.ours) == [True, False, False]
    assert uar(s.pred[2]) == 1 and s.pred[0].pair.nunique() == 6

def test_gap_is_the_score_of_the_pooled_answers(made, corpus):
    t = C.gap_table(R.Results(made), n_boot=50).set_index('recipe')
    pred = R.Results(made).predictions(R.Results(made).runs.query('recipe == "svm"'))
    assert t.uar['svm'] == pytest.approx(uar(pred)) and t.n_clips['svm'] == len(corpus) and t.n_speakers['svm'] == 12 and t.classes['svm'] == 8
    assert list(C.show_gap(t.reset_index()).system)[0] == 'SVM, mean MFCC'
    assert C.plot_gap(t.reset_index()).get_ylim() == (0, 100)

def test_the_picture_of_the_gap_tells_what_was_measured(made):
    t = C.gap_table(R.Results(made), n_boot=50)
    ours = [t[t.ours].assign(protocol=p, uar=u, n_speakers=n) for p, u, n in (('random10', .7, 4), ('sentence', .6, 12), ('cross', .3, 4))]
    t = pd.concat([*ours, t[~t.ours]], ignore_index=True)                # the peers are all that emobox has
    ax = C.plot_gap(t.assign(uar_lo=t.uar - .1, uar_hi=t.uar + .1))
    near, far = [line.get_linewidth() for line in ax.lines if len(line.get_xdata()) == 2]
    assert far < near                                                    # it passes over emobox
    bars = [np.ptp(b[:, 1]) if len(b) else 0 for b in ax.collections[0].get_segments()]
    assert bars == pytest.approx([20, 20, 0])                            # four speakers have no interval, but at random it is over clips
    C.plt.close(ax.figure)

def test_pairs_are_the_same_clips_and_the_same_seeds(made):
    runs = R.Results(made).runs
    a, b = (C.answers(R.Results(made), runs[runs.recipe == r]) for r in ('ablation', 'ablation+noise'))
    x, y = C.together(a, b)
    assert len(x) == len(y) == len(a) and (x['clip'] == y['clip']).all() and (x.pair == y.pair).all()
    x, y = C.together(a[a.pair.str.endswith('-0')], b)                   # only the seed they share
    assert set(y.pair) == {f'{f}-0' for f in range(6)}
    peer = R.Results(made).peers('emobox')['emocatcher']
    x, y = C.together(a, peer)                                           # a peer's one answer stands beside both seeds
    assert len(x) == len(y) == len(a) and accuracy(y) == 1 and accuracy(x) == pytest.approx(accuracy(a))
    x, y = C.together(peer, a)
    assert accuracy(x) == 1 and len(x) == len(a)
    with pytest.raises(SerError, match='no clip under the same fold and seed'): C.together(a.assign(pair='9-9'), b)

def test_pairs_table_finds_what_differs(made):
    t = C.pairs_table(R.Results(made), 'emobox', n_perm=500).set_index('system_b')
    assert len(t) == 2 and (t.p_holm >= t.p).all() and t.p['EmoCatcher, mel CNN-BiGRU'] < .01
    assert t.difference['EmoCatcher, mel CNN-BiGRU'] == pytest.approx(t.a.iloc[0] - 1)
    assert '−' in C.show_differences(t.reset_index()).difference.iloc[-1]

def test_ablation_finds_the_change_that_matters(made, tmp_path):
    t = C.ablation_table(R.Results(made), n_perm=500).set_index('change')
    assert list(t.index) == ['+noise', '-mixup'] and t.runs.eq(12).all()
    assert t.difference['+noise'] > .2 and t.p_holm['+noise'] < .05 and t.p_holm['-mixup'] > .05
    ax, few = (C.plot_ablation(t.reset_index().assign(n_speakers=n)) for n in (12, 4))
    assert ax.get_xlabel() == 'change of UAR, points' and len(ax.lines) - len(few.lines) == 2       # four speakers have no intervals
    with pytest.raises(SerError, match='ser_run --recipes ablation'): C.ablation_table(R.Results(tmp_path))

def test_calibration_and_fairness(made, corpus):
    t = C.calibration_table(R.Results(made), 'emobox')
    assert list(t.recipe) == ['svm'] and t.confidence[0] == pytest.approx(.65, abs=1e-3)
    groups, gaps = C.fairness_table(R.Results(made), C.systems(R.Results(made), 'emobox').pred[0], n_boot=50)
    assert set(gaps.attribute) == {'gender', 'intensity', 'speaker'} and len(groups[groups.attribute == 'speaker']) == 12
    neutral = corpus.emotion == 'neutral'
    assert groups[groups.attribute == 'intensity'].n.sum() == (~neutral).sum()      # neutral is never strong

def test_how_often_chance_sets_groups_as_far_apart(corpus, tmp_path):
    "Women are recognised and men are not; the two intensities are alike."
    pred = pd.concat([predict(corpus[corpus.gender == g], right, 0) for g, right in dict(female=.9, male=.2).items()], ignore_index=True)
    save(tmp_path, corpus, SVM, .5)                                      # names the clips
    gaps = C.fairness_table(R.Results(tmp_path), pred, n_boot=50)[1].set_index('attribute')
    assert gaps.p['gender'] < .02 < .1 < gaps.p['intensity'] and (gaps.difference - gaps.shuffled)['gender'] > .2
    shown = C.show_fairness(gaps.reset_index()).set_index('by')
    assert shown.p['gender'] == f'{gaps.p["gender"]:.3f}' and gaps.n_speakers.to_dict() == dict(gender=5, intensity=12, speaker=12)
    assert shown['95 %']['gender'] == '5 speakers' and shown['95 %']['intensity'].count(' to ') == 1    # five of a gender are too few, a dozen people are not

def test_a_handful_of_speakers_has_no_interval(corpus, tmp_path):
    save(tmp_path, corpus, SVM, .5, folds=[0])                           # two actors
    runs = R.Results(tmp_path).runs
    groups, gaps = C.fairness_table(R.Results(tmp_path), C.answers(R.Results(tmp_path), runs), n_boot=50)
    assert gaps[['lower', 'upper']].isna().all(axis=None) and gaps.difference.notna().all()
    assert groups.lo.notna().eq(groups.attribute == 'speaker').all()     # a speaker's own interval is over clips
    page = run_card(R.Results(tmp_path), runs.run[0])
    assert '| 2 speakers |' in page and 'An interval needs 10 speakers in each group' in page and 'nan' not in page
    scores = dict(accuracy=.5, accuracy_lo=.4, accuracy_hi=.6, unseen_speakers=True)
    said = {n: in_short(dict(data={}, labels='ab', scores=dict(emobox=scores | dict(speakers=n)))) for n in (9, 10)}
    assert '50 % right (9 speakers, too few for an interval)' in said[9] and '(95 % interval 40 to 60)' in said[10]

def test_a_clip_that_nobody_answered_is_missed(made, corpus, tmp_path):
    shutil.copytree(made, tmp_path/'r')
    f = tmp_path/'r'/'peers'/'emobox.csv'
    f.write_text('\n'.join(f.read_text().splitlines()[:-1]))
    with pytest.raises(SerError, match=f'emobox.csv lacks the clip {corpus["clip"].iloc[-1]}'): C.systems(R.Results(tmp_path/'r'), 'emobox')

@pytest.mark.parametrize('text, said', [
    ('clip,truth,emocatcher\nx,sad,sad\ny,happy,glad\n', 'line 3: emocatcher answers "glad"'), ('id,truth,emocatcher\nx,sad,sad\n', 'line 1: expected the columns'),
    ('clip,truth,emocatcher\nx,sad,sad\nx,happy,sad\n', 'duplicate clip'), ('clip,truth,emocatcher\nx,sad,\ny,happy,sad\n', 'line 2: emocatcher answers "nan"'), ('', 'cannot read'),
    ('clip,truth,strange\nx,sad,sad\n', 'line 1: unknown system "strange"')])
def test_bad_peers_are_refused(text, said, tmp_path):
    (tmp_path/'peers').mkdir()
    (tmp_path/'peers'/'luna.csv').write_text(text)
    with pytest.raises(SerError, match=said): R.Results(tmp_path).peers('luna')

def test_a_half_finished_seed_is_left_out(corpus, tmp_path):
    lstm = Recipe('lstm', model='lstm', epochs=40)
    save(tmp_path, corpus, SVM, .5)
    save(tmp_path, corpus, lstm, .6)
    save(tmp_path, corpus, lstm, .6, folds=[0], seeds=[1])               # a second seed has begun
    t = C.gap_table(R.Results(tmp_path), n_boot=20).set_index('recipe')
    assert list(t.index) == ['svm', 'lstm'] and t.seeds['lstm'] == 1 and t.n_answers['lstm'] == len(corpus)
    assert len(C.pairs_table(R.Results(tmp_path), 'emobox', n_perm=50)) == 1
    made = C.comparisons(R.Results(tmp_path))
    assert {'gap', 'pairs_emobox', 'calibration'} <= set(made)
    for c in made.values(): C.plt.close(c.figure) if c.figure else None
    runs = R.Results(tmp_path).runs
    halves = runs[(runs.recipe == 'lstm') & ~((runs.seed == 0) & (runs.fold > 0)) | (runs.recipe == 'svm')]
    assert set(C.complete_runs(R.Results(tmp_path), halves).recipe) == {'svm'}      # two seeds, and neither is whole

def test_speakers_without_groups_draw_no_empty_figure(corpus, tmp_path, recwarn):
    "Matplotlib warns of identical limits where a figure has no rows."
    save(tmp_path, corpus.assign(gender=None, intensity=None, sentence=None), SVM, .5)
    made = C.comparisons(R.Results(tmp_path))
    assert set(made['fairness'].table.attribute) == {'speaker'} and made['fairness'].figure is None
    assert not [w for w in recwarn if 'identical' in str(w.message)]
    for c in made.values(): C.plt.close(c.figure) if c.figure else None

def test_two_variants_have_two_names_and_two_rows(corpus, tmp_path):
    for epochs, right in ((40, .4), (50, .9)): save(tmp_path, corpus, Recipe('lstm', model='lstm', epochs=epochs), right)
    for w in ('a@1', 'b@2'): save(tmp_path, corpus, Recipe('cnn_transfer', weights=w, epochs=30), .5)
    for lr in (1e-3, 2e-3): save(tmp_path, corpus, Recipe('svm', model='svm', C=lr), .3)
    t = C.gap_table(R.Results(tmp_path), n_boot=20)
    shown = C.show_gap(t)
    assert len(t) == len(shown) == 6 and shown.system.is_unique and t.system.is_unique
    names = set(shown.system)
    assert {'BiLSTM, log-mel, 40 epochs', 'BiLSTM, log-mel, 50 epochs'} < names and sum('from a@1' in n or 'from b@2' in n for n in names) == 2
    assert sum(n.startswith('SVM, mean MFCC, recipe ') for n in names) == 2
    by = t.set_index('system').uar
    assert by['BiLSTM, log-mel, 50 epochs'] > by['BiLSTM, log-mel, 40 epochs'] + .3    # nothing is pooled
    pairs = C.pairs_table(R.Results(tmp_path), 'emobox', n_perm=20)
    assert len(pairs) == 15 and not pairs.duplicated(['system_a', 'system_b']).any()
    assert C.calibration_table(R.Results(tmp_path), 'emobox').system.is_unique
    assert len(C.plot_gap(t).get_legend().get_texts()) == 7              # and guessing

def test_pairs_on_the_folds_they_share(made):
    t = C.pairs_table(R.Results(made), 'emobox', n_perm=64, whole=False).set_index('system_b')
    assert list(t.index) == ['BiLSTM, log-mel'] and t.system_a.iloc[0] == 'SVM, mean MFCC' and t.folds.iloc[0] == '0,1,2,3,4'
    assert t.n_clips.iloc[0] == 10*30 and t.n_speakers.iloc[0] == 10     # two actors a fold
    shown = C.show_differences(t.reset_index().assign(n_speakers=4), ('system_a', 'system_b', 'folds'))
    assert shown['95 %'].tolist() == ['4 speakers']                      # too few for an interval

def test_at_random_a_peer_meets_only_its_own_deal(corpus, tmp_path):
    from ser_fastai.splits import split
    def deal(recipe, seeds):
        for s in seeds:
            for f in range(10):
                part = split(corpus, 'random10', f, s)
                facts = dict(run=R.run_id(recipe, 'ravdess', 'random10', f, s), **R.recipe_facts(recipe), corpora='ravdess', test_corpora='ravdess', protocol='random10',
                             fold=f, seed=s, n_params=1, n_train=9, seconds=1., device='cpu', versions={}, commit='')
                R.save_run(facts, predict(corpus.iloc[part.test], 1 if s else .2, f), None, None, corpus, tmp_path)
    deal(SVM, (0, 1))
    deal(Recipe('lstm', model='lstm', epochs=9), (1,))                   # no seed 0: nothing to set beside a peer
    (tmp_path/'peers').mkdir()
    peer = corpus[['clip']].assign(truth=corpus.emotion, emocatcher=np.where(np.arange(len(corpus)) % 2, corpus.emotion, 'calm'))
    peer.to_csv(tmp_path/'peers'/'random10.csv', index=False)
    t = C.pairs_table(R.Results(tmp_path), 'random10', n_perm=50)
    beside = t[~t.b_ours]
    assert list(beside.system_a) == ['SVM, mean MFCC'] and beside.a.iloc[0] < .5                  # the perfect seed 1 takes no part
    assert beside.n_clips.iloc[0] == len(corpus) and beside.p_mcnemar_holm.iloc[0] < .05
    assert t[t.b_ours].a.iloc[0] == 1 and (t.p_mcnemar_holm >= t.p_mcnemar).all() and 'McNemar, Holm' in C.show_differences(t)

def test_a_wrong_truth_is_named_by_file_and_line(made, corpus, tmp_path):
    shutil.copytree(made, tmp_path/'r')
    f = tmp_path/'r'/'peers'/'emobox.csv'
    lines = f.read_text().splitlines()
    clip, truth, *rest = lines[4].split(',')
    wrong = 'sad' if truth == 'calm' else 'calm'
    f.write_text('\n'.join([*lines[:4], ','.join([clip, wrong, *rest]), *lines[5:]]))
    with pytest.raises(SerError, match=f'emobox.csv line 5: {clip} is "{wrong}" here, but it is "{truth}" in clips.csv'): C.systems(R.Results(tmp_path/'r'), 'emobox')
    shutil.copy(made/'peers'/'emobox.csv', f)
    run = R.Results(made).runs.query('recipe == "svm"').run.iloc[0]
    g = tmp_path/'r'/run/'predictions.csv'
    lines = g.read_text().splitlines()
    part, clip, truth, *rest = lines[2].split(',')
    g.write_text('\n'.join([*lines[:2], ','.join([part, clip, 'calm' if truth != 'calm' else 'sad', *rest]), *lines[3:]]) + '\n')
    with pytest.raises(SerError, match=f'predictions.csv line 3: {clip}'): C.gap_table(R.Results(tmp_path/'r'), n_boot=9)

def test_an_ablation_with_two_bases(made, corpus, tmp_path):
    shutil.copytree(made, tmp_path/'r')
    save(tmp_path/'r', corpus, replace(BASE, lr=5e-3), .9)                                        # the same setting, fewer runs
    big = dict(sizes=(96, 128), shares=(.75, .25), epochs=20)
    save(tmp_path/'r', corpus, replace(BASE, **big), .9)
    save(tmp_path/'r', corpus, replace(BASE, name='ablation-mixup', mixup=.1, **big), .3)
    save(tmp_path/'r', corpus, replace(BASE, name='ablation+standardise', standardise='speaker', epochs=7), .3)   # a setting without a base
    t = C.ablation_table(R.Results(tmp_path/'r'), n_perm=200)
    assert t.setting.nunique() == 2 and len(t) == 3 and len(t.attrs['left_out']) == 2
    assert t.set_index(['setting', 'change']).difference['squeezenet1_1, 128 px, 20 epochs', '-mixup'] < -.3
    old = C.ablation_table(R.Results(made), n_perm=200).set_index('change').difference
    assert t[t.setting != 'squeezenet1_1, 128 px, 20 epochs'].set_index('change').difference.to_dict() == old.to_dict()
    assert list(C.show_ablation(t))[:3] == ['setting', 'change', 'transductive']
    there = C.comparisons(R.Results(tmp_path/'r'))
    assert len(there['ablation'].table) == 3 and 'transductive' in there['ablation'].shown
    for c in there.values(): C.plt.close(c.figure) if c.figure else None

def test_a_change_is_a_single_one(corpus, tmp_path):
    base = replace(BASE, weights='a@1')
    save(tmp_path, corpus, base, .4)
    for name, right, seeds, change in [('-imagenet', .2, [0], dict(weights='scratch')), ('-trimming', .4, [0], dict(trim=False)), ('-mixup', .8, [0], dict(mixup=.1)),
                                       ('-mixup', .2, [0, 1], dict(mixup=.1, weights='b@2')),   # more runs, and another file of weights
                                       ('+shift', .4, [0], dict(shift=.1, weights='b@2')), ('+noise', .4, [0], dict(waveform='noise', trim=False))]:
        save(tmp_path, corpus, replace(base, name=base.name + name, **change), right, seeds=seeds)
    t = C.ablation_table(R.Results(tmp_path), n_perm=50)
    assert set(t.change) == {'-imagenet', '-trimming', '-mixup'} and t.set_index('change').difference['-mixup'] > .2
    left = sorted(t.attrs['left_out'])
    assert [x.split(' (')[0].removeprefix('ablation') for x in left] == ['+noise', '+shift', '-mixup']
    assert [x.split(', ')[-1] for x in left] == ['trim False)', 'weights b@2)', 'weights b@2)']

def test_the_conclusion_follows_the_table(made):
    t = C.ablation_table(R.Results(made), n_perm=500)
    help, hurt, same = C.conclude(t).splitlines()
    d = t.set_index('change')
    assert f'1 of 2 changes help: `+noise` +{100*d.difference["+noise"]:.1f} points' in help and '`-mixup`' in same and hurt == '- 0 of 2 changes hurt.'
    assert 'null control' not in same and 'null control' in C.conclude(t.assign(change='+gain'))
    worse = C.conclude(t.assign(difference=-t.difference))
    assert '1 of 2 changes hurt: `+noise` −' in worse and 'transductive' in C.conclude(t.assign(transductive=True))

@pytest.fixture(scope='module')
def both(corpus):
    german = [(f'emodb/{s:02}/{e}-{i}', 'emodb', f'emodb_{s:02}', 'female' if s % 2 else 'male', e, '', 'a01', str(i), 2.)
              for s in range(10) for e in EMOTIONS if e not in ('calm', 'surprised') for i in range(4)]
    return pd.concat([corpus, pd.DataFrame(german, columns=R.CLIPS)], ignore_index=True)

SIX = [e for e in EMOTIONS if e not in ('calm', 'surprised')]

def cross(results, both, recipe, right, seed=0, learnt='ravdess', labels=SIX):
    "From English to German, on the six emotions that both have."
    from ser_fastai.splits import split
    part = split(both, 'cross', 0)
    test, valid = both.iloc[part.test], both.iloc[part.valid]
    facts = dict(run=R.run_id(recipe, learnt, 'cross', 0, seed, 'emodb'), **R.recipe_facts(recipe), corpora=learnt, test_corpora='emodb', protocol='cross',
                 fold=0, seed=seed, n_params=1, n_train=len(part.train), seconds=1., device='cpu', versions={}, commit='')
    def asked(df, seed):
        p = predict(df, right, seed)
        return p[['clip', 'truth']].join(p[labels].div(p[labels].sum(axis=1), axis=0))
    R.save_run(facts, asked(test, seed), asked(valid, seed + 5), None, both, results)

def test_a_card_counts_the_training_clips_of_its_runs(both, corpus, tmp_path):
    six = corpus[~corpus.emotion.isin(['calm', 'surprised'])]
    cross(tmp_path, both, SVM, .4)
    run = R.Results(tmp_path).runs.iloc[0]
    assert f'only these of {len(six)} clips with its labels' in run_card(R.Results(tmp_path), run.run)   # so far, the results list only validation clips of the training corpus
    save(tmp_path, corpus, SVM, .5)                                      # names all clips
    page = run_card(R.Results(tmp_path), run.run)
    assert f'RAVDESS: {len(six)} clips of 12 speakers' in page and 'calm' not in page and f'Each run was trained on {run.n_train} clips' in page
    assert run.n_train + run.n_valid == len(six) and 'share no corpus and no speaker' in page

def test_pairs_under_every_protocol(both, corpus, tmp_path):
    from ser_fastai.splits import split
    lstm = Recipe('lstm', model='lstm')
    for recipe, right in ((SVM, .3), (lstm, .9)):
        for f in range(2):
            test = corpus.iloc[split(corpus, 'sentence', f).test]
            facts = dict(run=R.run_id(recipe, 'ravdess', 'sentence', f, 0), **R.recipe_facts(recipe), corpora='ravdess', test_corpora='ravdess', protocol='sentence',
                         fold=f, seed=0, n_params=1, n_train=9, seconds=1., device='cpu', versions={}, commit='')
            R.save_run(facts, predict(test, right, f), None, None, corpus, tmp_path)
        cross(tmp_path, both, recipe, right)
    cross(tmp_path, both, SVM, .5, learnt='savee')                        # the same classes, from another corpus
    cross(tmp_path, both, lstm, .5, learnt='tess', labels=[*SIX, 'surprised'])    # other classes: it stands beside none of them
    made = C.comparisons(R.Results(tmp_path))
    assert made['pairs_sentence'].table.difference[0] < -.3 and len(made['pairs_sentence'].table) == 1 and 'pairs_cross' not in made
    t = C.pairs_table(R.Results(tmp_path), 'cross', corpora='emodb', n_perm=1024)
    assert set(map(frozenset, zip(t.system_a, t.system_b))) == {frozenset(x) for x in [
        ('SVM, mean MFCC from ravdess', 'SVM, mean MFCC from savee'), ('SVM, mean MFCC from ravdess', 'BiLSTM, log-mel from ravdess'), ('SVM, mean MFCC from savee', 'BiLSTM, log-mel from ravdess')]}
    assert (t.n_speakers == 10).all() and (t.p >= 2/2**10).all() and (t.p_holm >= t.p).all() and 'speakers' not in ''.join(C.show_differences(t)['95 %'])
    for c in made.values(): C.plt.close(c.figure) if c.figure else None

def test_for_which_corpus_a_joint_model_works(both, tmp_path):
    from ser_fastai.splits import n_folds, split
    for f in range(n_folds(both, 'emobox')):
        test = both.iloc[split(both, 'emobox', f).test]
        pred = pd.concat([predict(test[test.corpus == c], right, f) for c, right in dict(ravdess=.7, emodb=.3).items()])
        facts = dict(run=R.run_id(SVM, 'emodb,ravdess', 'emobox', f, 0), **R.recipe_facts(SVM), corpora='emodb,ravdess', test_corpora='emodb,ravdess', protocol='emobox',
                     fold=f, seed=0, n_params=1, n_train=9, seconds=1., device='cpu', versions={}, commit='')
        R.save_run(facts, pred, None, None, both, tmp_path)
    runs = R.Results(tmp_path).runs
    pred = C.answers(R.Results(tmp_path), runs)
    groups, gaps = C.fairness_table(R.Results(tmp_path), pred)
    score, w = groups[groups.attribute == 'corpus'].set_index('group').score, gaps.set_index('attribute').loc['corpus']
    asked = pred[~pred.truth.isin(['calm', 'surprised'])]                # of both corpora
    for c in score.index: assert score[c] == pytest.approx(uar(asked[asked['clip'].str.startswith(c)]))
    assert (w.best, w.worst) == ('ravdess', 'emodb') and w.difference == pytest.approx(score.ravdess - score.emodb)
    assert 0 < w.lower < w.difference < w.upper < 1 and w.shuffled < w.difference/2
    assert '| corpus | ravdess | emodb |' in run_card(R.Results(tmp_path), runs.run[0])

def test_card_of_a_run(made):
    runs = R.Results(made).runs
    page = run_card(R.Results(made), runs.run[runs.recipe == 'svm'].iloc[0])
    assert page == run_card(R.Results(made), runs.run[runs.recipe == 'svm'].iloc[-1])            # every fold has the same card
    for word in ('0-5', 'share no speaker', 'gender', 'calibration error', 'CC BY-NC-SA'): assert word in page
    failed = R.save_run(dict(run='bad', **R.recipe_facts(SVM), corpora='ravdess', test_corpora='ravdess', protocol='emobox', fold=9, seed=9, n_params=0,
                             n_train=0, seconds=0., device='cpu', versions={}, commit='', error='no memory'), folder=made)
    with pytest.raises(SerError, match='bad failed .no memory'): run_card(R.Results(made), 'bad')
    shutil.rmtree(failed)
