"Ablations: which runs are compared, and what the table, the figure and the summary say."
import shutil
import matplotlib.pyplot as plt
import pytest
from dataclasses import replace
from ser_fastai import ablation as A
from ser_fastai.core import SerError
from ser_fastai.results import Results
from test_compare import BASE, corpus, made, save

def test_ablation_finds_the_change_that_matters(made, tmp_path):
    t = A.ablation_table(Results(made), n_perm=500).set_index('change')
    assert list(t.index) == ['+noise', '-mixup'] and t.runs.eq(12).all()
    assert t.difference['+noise'] > .2 and t.p_holm['+noise'] < .05 and t.p_holm['-mixup'] > .05
    with pytest.raises(SerError, match='ser_run --recipes ablation'): A.ablation_table(Results(tmp_path))
    assert A.ablation_comparison(Results(tmp_path)) == {}

def test_plot_has_intervals_for_enough_speakers(made):
    t = A.ablation_table(Results(made), n_perm=500)
    many, few = (A.plot_ablation(t.assign(n_speakers=n)) for n in (12, 4))
    assert len(many.lines) - len(few.lines) == len(t) and 'points' in many.get_xlabel()
    names = [label.get_text() for label in many.get_yticklabels()]
    assert names == list(t.change) and many.yaxis_inverted()  # the largest difference is at the top
    plt.close('all')

def test_an_ablation_with_two_bases(made, corpus, tmp_path):
    d = tmp_path/'r'
    shutil.copytree(made, d)
    save(d, corpus, replace(BASE, lr=5e-3), .9)                          # the same setting, fewer runs
    large = dict(sizes=(96, 128), shares=(.75, .25), epochs=20)
    save(d, corpus, replace(BASE, **large), .9)
    save(d, corpus, replace(BASE, name='ablation-mixup', mixup=.1, **large), .3)
    no_base = replace(BASE, name='ablation+standardise', standardise='speaker', epochs=7)
    save(d, corpus, no_base, .3)
    t = A.ablation_table(Results(d), n_perm=200)
    assert t.setting.nunique() == 2 and len(t) == 3 and len(t.attrs['left_out']) == 2
    setting = 'squeezenet1_1, 128 px, 20 epochs'
    assert t.set_index(['setting', 'change']).difference[setting, '-mixup'] < -.3
    old = A.ablation_table(Results(made), n_perm=200).set_index('change').difference
    assert t[t.setting != setting].set_index('change').difference.to_dict() == old.to_dict()
    assert list(A.show_ablation(t))[:3] == ['setting', 'change', 'transductive']
    comparison = A.ablation_comparison(Results(d))['ablation']
    assert len(comparison.table) == 3 and 'transductive' in comparison.shown
    plt.close(comparison.figure)

def test_a_change_differs_in_one_thing(corpus, tmp_path):
    base = replace(BASE, weights='a@1')
    save(tmp_path, corpus, base, .4)
    for change, right, seeds, fields in [
            ('-imagenet', .2, [0], dict(weights='scratch')),
            ('-trimming', .4, [0], dict(trim=False)),
            ('-mixup', .8, [0], dict(mixup=.1)),
            ('-mixup', .2, [0, 1], dict(mixup=.1, weights='b@2')),       # more runs, but other weights
            ('+shift', .4, [0], dict(shift=.1, weights='b@2')),
            ('+noise', .4, [0], dict(waveform='noise', trim=False))]:
        save(tmp_path, corpus, replace(base, name=base.name + change, **fields), right, seeds=seeds)
    t = A.ablation_table(Results(tmp_path), n_perm=50)
    assert set(t.change) == {'-imagenet', '-trimming', '-mixup'}
    assert t.set_index('change').difference['-mixup'] > .2
    left_out = sorted(t.attrs['left_out'])
    assert [x.split(' (')[0].removeprefix('ablation') for x in left_out] == ['+noise', '+shift', '-mixup']
    assert [x.split(', ')[-1] for x in left_out] == ['trim False)', 'weights b@2)', 'weights b@2)']

def test_the_summary_follows_the_table(made):
    t = A.ablation_table(Results(made), n_perm=500)
    help, hurt, neither = A.ablation_summary(t).splitlines()
    d = t.set_index('change').difference
    assert f'1 of 2 changes help: `+noise` +{100*d["+noise"]:.1f} points' in help
    assert hurt == '- 0 of 2 changes hurt.'
    assert '`-mixup`' in neither and 'null control' not in neither
    assert 'null control' in A.ablation_summary(t.assign(change='+gain'))
    assert '1 of 2 changes hurt: `+noise` −' in A.ablation_summary(t.assign(difference=-t.difference))
    assert 'transductive' in A.ablation_summary(t.assign(transductive=True))
