"Corpora: every published layout in small, every way in which one can be broken."
import hashlib, io, re, shutil, threading, time, zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile as sf

from ser_fastai import corpora
from ser_fastai.archives import fetch, unpack
from ser_fastai.core import EMOTIONS, SerError
from ser_fastai.corpora import (COLUMNS, CORPORA, class_table, describe, download, emotion_name, load_any, load_corpora, load_corpus,
                                load_csv, load_folder, plot_classes)
from ser_fastai.predict import find_files


def clip(path, seed=None, sr=16000, seconds=.15, channels=1):
    "A noise of its own in a file of that name; the same seed gives the same samples."
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.md5(str(path).encode()).hexdigest()[:8], 16) if seed is None else seed
    sf.write(path, (np.random.default_rng(seed).normal(size=(int(seconds*sr), channels))*3000).astype('int16'), sr)
    return path

def clips(folder, *names):
    for n in names: clip(folder/n)
    return folder

def notes(df): return '\n'.join(df.attrs['notes'])

RAVDESS = 'Actor_01/03-01-01-01-01-01-01.wav', 'Actor_01/03-01-05-02-02-01-01.wav', 'Actor_02/03-01-08-01-02-02-02.wav'
SONG = 'Actor_02/03-02-03-01-01-01-02.wav'
IDS = [f'ravdess/{n[:-4]}' for n in RAVDESS]


# --- layouts

@pytest.mark.parametrize('where', ['ravdess', 'RAVDESS', 'ravdess/Audio_Speech_Actors_01-24',
                                   'Audio_Speech_Actors_01-24', '.', 'down/loads/archive'])
def test_ravdess_lies_anywhere(tmp_path, where):
    clips(tmp_path/where, *RAVDESS, SONG)
    df = load_corpus('ravdess', tmp_path)
    assert list(df.columns) == list(COLUMNS)
    assert df['clip'].tolist() == IDS
    assert df.speaker.tolist() == ['ravdess_01', 'ravdess_01', 'ravdess_02']
    assert df.gender.tolist() == ['male', 'male', 'female']
    assert df.emotion.tolist() == ['neutral', 'angry', 'surprised']
    assert df.intensity.tolist() == ['normal', 'strong', 'normal']
    assert df.sentence.tolist() == ['kids', 'dogs', 'dogs'] and df.repetition.tolist() == [1, 1, 2]
    assert df.duration.round(3).unique().tolist() == [.15] and df.sha.nunique() == 3

def test_ravdess_twice_flat_flac_and_rates(tmp_path):
    clips(tmp_path/'ravdess', *RAVDESS)
    shutil.copytree(tmp_path/'ravdess', tmp_path/'again')
    shutil.move(tmp_path/'again', tmp_path/'ravdess'/'audio_speech_actors_01-24')
    df = load_corpus('ravdess', tmp_path)
    assert df['clip'].tolist() == IDS and '3 files ignored, each a second file of a clip' in notes(df)
    assert not df.path.str.contains('audio_speech').any()
    flat = tmp_path/'flat'/'ravdess'
    for i, n in enumerate(RAVDESS): clip(flat/Path(n).with_suffix('.flac').name, sr=(8000, 48000, 192000)[i], channels=(1, 2, 8)[i])
    assert load_corpus('ravdess', tmp_path/'flat')['clip'].tolist() == IDS

def test_the_folder_itself_can_be_given(tmp_path):
    clips(tmp_path/'ravdess', *RAVDESS)
    assert load_corpus('ravdess', tmp_path/'ravdess')['clip'].tolist() == IDS

def test_a_path_that_bears_its_name_is_read_as_that_corpus(tmp_path):
    clips(tmp_path/'RAVDESS'/'x', *RAVDESS)
    assert load_any(str(tmp_path/'RAVDESS'))['clip'].tolist() == IDS

def test_song_on_request(tmp_path):
    clips(tmp_path/'ravdess', *RAVDESS, SONG)
    assert len(load_corpus('ravdess', tmp_path)) == 3
    df = load_corpus('ravdess', tmp_path, song=True)
    assert f'ravdess/{SONG[:-4]}' in df['clip'].tolist() and '2448 of the 2452 published clips' in notes(df)

@pytest.mark.parametrize('layout', ['savee/AudioData/{s}/{c}.wav', 'savee/AudioData/AudioData/{s}/{c}.wav', 'savee/ALL/{s}_{c}.wav',
                                    'SAVEE/{s}_{c}.wav', 'AudioData/{s}/{c}.wav', '{s}/{c}.wav'])
@pytest.mark.parametrize('zipped', [False, True])
def test_savee_layouts(tmp_path, layout, zipped):
    for s in ('DC', 'KL'):
        for c in ('a01', 'n30', 'sa02', 'su15'): clip(tmp_path/layout.format(s=s, c=c))
    if zipped:
        shutil.make_archive(str(tmp_path.parent/f'{tmp_path.name}-z'), 'zip', tmp_path)
        shutil.rmtree(tmp_path); tmp_path.mkdir()
        shutil.move(tmp_path.parent/f'{tmp_path.name}-z.zip', tmp_path/'AudioData.zip')
    df = load_corpus('savee', tmp_path)
    assert df['clip'].tolist() == [f'savee/{s}/{c}' for s in ('DC', 'KL') for c in ('a01', 'n30', 'sa02', 'su15')]
    assert df.emotion.tolist()[:4] == ['angry', 'neutral', 'sad', 'surprised'] and set(df.speaker) == {'savee_DC', 'savee_KL'}
    assert set(df.gender) == {'male'} and df.sentence.tolist()[0] == 'a01' and df.repetition.isna().all()
    assert load_corpus('savee', tmp_path)['clip'].tolist() == df['clip'].tolist()

def test_savee_zip_within_its_folder_and_everything_twice(tmp_path):
    for top in ('AudioData', 'AudioData/AudioData'): clips(tmp_path/'x'/top, 'DC/a01.wav', 'JE/d02.wav')
    (tmp_path/'savee').mkdir()
    shutil.make_archive(str(tmp_path/'savee'/'savee'), 'zip', tmp_path/'x')
    assert load_corpus('savee', tmp_path)['clip'].tolist() == ['savee/DC/a01', 'savee/JE/d02']

def test_emodb(tmp_path):
    clips(tmp_path/'EMO-DB'/'wav', '03a01Fa.wav', '08b10Lb.wav', '16a07Wc.wav', '10a02Ad.wav', '11a04Na.wav', '12a05Ta.wav', '13b01Ea.wav')
    df = load_corpus('emodb', tmp_path)
    assert df['clip'].tolist()[0] == 'emodb/wav/03a01Fa'
    assert df.emotion.tolist() == ['happy', 'boredom', 'fearful', 'neutral', 'sad', 'disgust', 'angry']
    assert df.gender.tolist() == ['male', 'female', 'male', 'male', 'male', 'female', 'female']
    assert df.sentence.tolist()[:2] == ['a01', 'b10'] and df.repetition.tolist()[:2] == [1, 2] and set(df.language) == {'de'}

@pytest.mark.parametrize('demographics', [True, False])
def test_cremad(tmp_path, demographics):
    clips(tmp_path/'CREMA-D'/'AudioWAV', '1001_DFA_ANG_XX.wav', '1001_IEO_DIS_LO.wav', '1002_IEO_FEA_MD.wav', '1002_IEO_HAP_HI.wav',
          '1002_WSI_NEU_XX.wav', '1040_ITH_SAD_X.wav')
    if demographics:
        (tmp_path/'CREMA-D'/'VideoDemographics.csv').write_text('ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,,\n1002,21,Female,,\n')
    df = load_corpus('cremad', tmp_path)
    assert df.emotion.tolist() == ['angry', 'disgust', 'fearful', 'happy', 'neutral', 'sad']
    assert df['clip'].tolist()[0] == 'cremad/AudioWAV/1001_DFA_ANG_XX' and df.speaker.tolist()[-1] == 'cremad_1040'
    assert df.intensity.fillna('').tolist() == ['', 'low', 'medium', 'high', '', '']
    assert df.gender.fillna('').tolist() == (['male']*2 + ['female']*3 + [''] if demographics else ['']*6)

EMOVO = dict(rab='angry', dis='disgust', pau='fearful', gio='happy', tri='sad', neu='neutral', sor='surprised')

@pytest.mark.parametrize('layout', ['EMOVO/{s}/{n}.wav', 'emovo/EMOVO/{s}/{n}.wav', 'emovo/{n}.flac', '{s}/{n}.wav', '{n}.flac'])
def test_emovo_layouts(tmp_path, layout):
    names = [(s, f'{e}-{s}-{t}') for s in ('f1', 'm3') for e, t in zip(sorted(EMOVO), ('b1', 'b2', 'd1', 'd2', 'l4', 'n1', 'n5'))]
    clips(tmp_path, *(layout.format(s=s, n=n) for s, n in names))
    df = load_corpus('emovo', tmp_path)
    assert df['clip'].tolist() == [f'emovo/{s}/{n}' for s, n in names]
    assert df.emotion.tolist() == [EMOVO[e] for e in sorted(EMOVO)]*2
    assert df.speaker.tolist() == ['emovo_f1']*7 + ['emovo_m3']*7 and df.gender.tolist() == ['female']*7 + ['male']*7
    assert df.sentence.tolist()[:3] == ['b1', 'b2', 'd1'] and set(df.language) == {'it'}
    assert df.attrs['notes'] == ['emovo: 574 of the 588 published clips are missing']

@pytest.mark.parametrize('layout', ['nemo/samples/{n}.wav', 'nEMO/samples/{n}.flac', 'nemo/{n}.flac', 'samples/{n}.wav'])
def test_nemo_layouts(tmp_path, layout):
    names = ['EB0_anger_1', 'EB0_fear_35', 'IC0_happiness_90', 'KS0_neutral_7', 'MP0_sadness_12', 'WR0_surprised_58']
    clips(tmp_path, *(layout.format(n=n) for n in names))
    table = (tmp_path/layout).parent.parent/'data.tsv'
    table.write_text('file_id\temotion\traw_text\nEB0_fear_35.flac\tfear\tAby upiec ciasto\n')   # beside the clips; not read
    df = load_corpus('nemo', tmp_path)
    assert df['clip'].tolist() == [f'nemo/samples/{n}' for n in names]
    assert df.emotion.tolist() == ['angry', 'fearful', 'happy', 'neutral', 'sad', 'surprised']
    assert df.speaker.tolist() == [f'nemo_{n[:3]}' for n in names]
    assert df.gender.tolist() == ['female']*3 + ['male']*3
    assert df.sentence.tolist() == ['1', '35', '90', '7', '12', '58'] and set(df.language) == {'pl'}
    assert df.attrs['notes'] == ['nemo: 4475 of the 4481 published clips are missing']

def test_emovo_and_nemo_beside_others(tmp_path):
    clips(tmp_path/'ravdess', *RAVDESS)
    clips(tmp_path/'emovo', 'rab-f1-b1.flac', 'notes-f1.flac', 'rab-f4-b1.flac')
    clips(tmp_path/'nemo'/'samples', 'EB0_anger_1.flac', 'EB0_disgust_1.flac', 'XX0_anger_1.flac')
    df = load_corpora('ravdess,nemo,emovo', tmp_path)
    assert df['clip'].tolist() == ['emovo/f1/rab-f1-b1', 'nemo/samples/EB0_anger_1', *IDS]
    for fault in ('does not have the form dis-f1-b1', 'unknown speaker "f4"', 'unknown emotion "disgust"', 'unknown speaker "XX0"'):
        assert fault in notes(df)

def test_tess_twice_in_its_mirror(tmp_path):
    for top in ('.', 'TESS Toronto emotional speech set data'):
        clips(tmp_path/'tess'/'TESS Toronto emotional speech set data'/top, 'OAF_angry/OAF_back_angry.wav',
              'OAF_neutral/OA_bite_neutral.wav', 'YAF_pleasant_surprised/YAF_back_ps.wav', 'YAF_fear/YAF_back_fear.wav')
    df = load_corpus('tess', tmp_path)
    assert df['clip'].tolist() == ['tess/OAF_back_angry', 'tess/OAF_bite_neutral', 'tess/YAF_back_fear', 'tess/YAF_back_ps']
    assert df.emotion.tolist() == ['angry', 'neutral', 'fearful', 'surprised']
    assert set(df.gender) == {'female'} and set(df.speaker) == {'tess_OAF', 'tess_YAF'} and df.sentence.tolist()[1] == 'bite'

def test_iemocap(tmp_path):
    top, turns = tmp_path/'IEMOCAP_full_release', ('F000', 'F001', 'M000', 'M001', 'MXX0')
    clips(top/'Session1'/'sentences'/'wav'/'Ses01F_impro01', *(f'Ses01F_impro01_{t}.wav' for t in turns))
    clips(top/'Session5'/'sentences'/'wav'/'Ses05M_script01_1b', 'Ses05M_script01_1b_M003.wav', '._Ses05M_script01_1b_M003.wav')
    clips(top/'Session1'/'dialog'/'wav', 'Ses01F_impro01.wav')
    labels = {'Ses01F_impro01': dict(F000='neu', F001='exc', M000='fru', M001='xxx'), 'Ses05M_script01_1b': dict(M003='hap')}
    for name, rows in labels.items():
        session = int(name[3:5])
        f = top/f'Session{session}'/'dialog'/'EmoEvaluation'/f'{name}.txt'
        f.parent.mkdir(parents=True)
        f.write_text('% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n' + '\n'.join(
            f'[6.2901 - 8.2357]\t{name}_{t}\t{label}\t[2.5000, 2.5000, 2.5000]\nC-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n'
            for t, label in rows.items()))
    df = load_corpus('iemocap', tmp_path)
    assert df['clip'].tolist()[0] == 'iemocap/Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000'
    assert df.emotion.tolist() == ['neutral', 'excited', 'frustrated', 'happy']
    assert df.speaker.tolist() == ['iemocap_Ses01F', 'iemocap_Ses01F', 'iemocap_Ses01M', 'iemocap_Ses05M']
    assert df.sentence.tolist() == ['impro01']*3 + ['script01_1b'] and df.gender.tolist()[0] == 'female'
    assert '2 clips without a label' in notes(df) and 'skipped' not in notes(df)

def test_synth_is_read_as_ravdess_and_never_taken_for_it(tmp_path):
    clips(tmp_path/'synth', *RAVDESS)
    assert load_corpus('synth', tmp_path).speaker.tolist()[0] == 'synth_01'
    for data in tmp_path, tmp_path/'synth':
        with pytest.raises(SerError, match='RAVDESS is not in'): load_corpus('ravdess', data)

def test_ids_do_not_depend_on_the_place(tmp_path):
    frames = []
    for i, where in enumerate(('ravdess', 'ravdess/a/b/c', 'x/y')):
        clips(tmp_path/str(i)/where, *RAVDESS)
        frames.append(load_corpus('ravdess', tmp_path/str(i)))
    assert all(f['clip'].equals(frames[0]['clip']) for f in frames)


# --- labels

def test_labels_belong_to_the_set_of_corpora(tmp_path):
    clips(tmp_path/'emodb'/'wav', '03a01Fa.wav', '03a01La.wav', '08a01Lb.wav')
    clips(tmp_path/'ravdess', *RAVDESS)
    assert load_corpora('emodb', tmp_path).emotion.tolist() == ['happy', 'boredom', 'boredom']
    both = load_corpora(' ravdess,emodb', tmp_path)
    assert both.corpus.tolist() == ['emodb'] + ['ravdess']*3 and set(both.emotion) <= set(EMOTIONS)
    assert 'emodb: 2 clips of boredom dropped' in notes(both)
    assert load_corpora(['emodb', 'ravdess'], tmp_path).equals(both) and load_any('emodb,ravdess', tmp_path).equals(both)
    assert class_table(both).loc['happy'].to_dict() == dict(emodb=1, ravdess=0)
    assert describe(both).clips.tolist() == [1, 3]
    assert len(plot_classes(both).containers) == 2

@pytest.mark.parametrize('label,name', [('anger', 'angry'), ('Happiness', 'happy'), ('SADNESS', 'sad'), ('fear', 'fearful'),
                                        ('surprise', 'surprised'), ('pleasant surprise', 'surprised'),
                                        ('boredom', 'boredom'), ('Calm', 'calm')])
def test_emotion_names(label, name): assert emotion_name(label) == name

def test_one_speaker_and_one_clip_a_class_are_a_corpus(tmp_path):
    df = load_corpus('ravdess', clips(tmp_path/'ravdess', *RAVDESS[:2]).parent)
    assert df.speaker.unique().tolist() == ['ravdess_01'] and describe(df).speakers.tolist() == [1]


# --- one's own

def test_folder_a_class(tmp_path):
    clips(tmp_path/'calls', 'Anger/a.wav', 'Anger/deep/b.flac', 'relief/c.wav')
    df = load_folder(tmp_path/'calls')
    assert df['clip'].tolist() == ['calls/Anger/a', 'calls/Anger/deep/b', 'calls/relief/c']
    assert df.emotion.tolist() == ['angry', 'angry', 'relief']
    assert df.speaker.isna().all()
    shutil.copytree(tmp_path/'calls', tmp_path/'outer'/'calls')
    assert load_folder(tmp_path/'outer', name='calls')['clip'].equals(df['clip'])
    clip(tmp_path/'calls'/'stray.wav')
    assert 'stray.wav: it is not in the folder of a class' in notes(load_any(str(tmp_path/'calls')))
    with pytest.raises(SerError, match='stray.wav'): load_folder(tmp_path/'calls', strict=True)

def test_two_files_that_differ_in_their_suffix_are_two_clips(tmp_path):
    clips(tmp_path/'calls', 'sad/a.wav', 'sad/a.flac', 'sad/b.wav')
    df = load_folder(tmp_path/'calls')
    assert df['clip'].tolist() == ['calls/sad/a.flac', 'calls/sad/a.wav', 'calls/sad/b'] and not notes(df)

def test_a_csv_that_says_two_things_of_a_clip(tmp_path):
    clips(tmp_path, 'w/a.wav')
    text = 'path,emotion\nw/a.wav,sad\n./w/a.wav,%s\n'
    (tmp_path/'list.csv').write_text(text % 'Anger')
    with pytest.raises(SerError, match='list.csv lists w/a.wav as sad and as angry: keep one'): load_csv(tmp_path/'list.csv')
    (tmp_path/'list.csv').write_text(text % 'sadness')
    assert load_csv(tmp_path/'list.csv')['clip'].tolist() == ['list/w/a']

def test_csv(tmp_path):
    a, b = clip(tmp_path/'w'/'a.wav'), clip(tmp_path/'far'/'b.wav')
    pd.DataFrame(dict(path=['w/a.wav', b, 'w/gone.wav', 'w/a.wav'], emotion=['Fear', 'awe', 'sad', 'Fear'], speaker=[1, 2, 2, 1],
                      gender='female', repetition=['1', 'x', '2', '1'])).to_csv(tmp_path/'list.csv', index=False)
    df = load_any(str(tmp_path/'list.csv'))
    assert df['clip'].tolist() == ['list/b', 'list/w/a'] and df.emotion.tolist() == ['awe', 'fearful']
    assert df.speaker.tolist() == ['list_2', 'list_1'] and df.repetition.isna().tolist() == [True, False]
    assert '1 clip skipped' in notes(df) and 'gone.wav' in notes(df) and '1 file ignored, each a second file of a clip' in notes(df)

@pytest.mark.parametrize('text,message', [
    ('path,mood\na.wav,sad\n', r'no column "emotion" \(its columns: path, mood\)'), ('', 'list.csv: it is empty'), ('path,emotion\n', 'no usable clip'),
    ('a.wav,sad\n', 'no column "path"'), ('path,emotion\na,b.wav,sad\n', 'line 2 has 3 cells, but the header has 2'), ('path,emotion\n"a.wav,sad\n', 'unexpected end'),
    ('file,audio,emotion\n', 'file and audio could both be the path'), ('\0\1\2\3\4', 'not a text file')])
def test_bad_csv(tmp_path, text, message):
    (tmp_path/'list.csv').write_text(text)
    with pytest.raises(SerError, match=message): load_csv(tmp_path/'list.csv')

def test_csv_that_is_not_there(tmp_path):
    with pytest.raises(SerError, match='cannot read .*no.csv: No such file'): load_any(str(tmp_path/'no.csv'))

def test_own_corpus_beside_a_known_one(tmp_path):
    clips(tmp_path/'ravdess', *RAVDESS); clips(tmp_path/'calls', 'anger/a.wav', 'relief/c.wav')
    df = load_any(f'ravdess,{tmp_path}/calls', tmp_path)
    assert df.corpus.tolist() == ['calls'] + ['ravdess']*3 and 'calls: 1 clip of relief dropped' in notes(df)


# --- lists

LABELLED = 'path,emotion,speaker\nw/a.wav,happy,NA\nw/b.wav,None,Zoë\nw/c.wav,n/a,2\n'

@pytest.mark.parametrize('change', [
    lambda s: s.replace(',', ';'), lambda s: s.replace(',', '\t'), lambda s: s.replace('\n', '\r\n'), lambda s: s.replace('\n', '\r'),
    lambda s: 'sep=;\n' + s.replace(',', ';'), lambda s: '\n' + s.replace('\n', ',\n'), lambda s: s.replace('w/', 'w\\'), lambda s: s.replace('w/', './w/'),
    lambda s: s.replace('path,emotion,speaker', ' PATH ,Emotion , Speaker'), lambda s: s.replace('path,emotion,speaker', 'File Name,label,speaker_id'),
    lambda s: re.sub('([^,\n]+)', r'"\1"', s), lambda s: s.replace(',', ' , '), lambda s: s.replace('path', 'file').replace('\n', ',x\n').replace('r,x', 'r,path2')])
def test_a_list_is_read_as_its_author_meant_it(tmp_path, change, encoding='utf-8'):
    clips(tmp_path/'w', 'a.wav', 'b.wav', 'c.wav')
    (tmp_path/'list.csv').write_bytes(change(LABELLED).encode(encoding))
    df = load_csv(tmp_path/'list.csv', strict=True)
    assert df['clip'].tolist() == ['list/w/a', 'list/w/b', 'list/w/c']
    assert df.emotion.tolist() == ['happy', 'None', 'n/a'] and df.speaker.tolist() == ['list_NA', 'list_Zoë', 'list_2']

@pytest.mark.parametrize('encoding', ['utf-8-sig', 'cp1252', 'utf-16', 'utf-16-le', 'utf-16-be'])
def test_encodings_of_lists(tmp_path, encoding): test_a_list_is_read_as_its_author_meant_it(tmp_path, str.strip, encoding)

def test_an_empty_cell_is_missing(tmp_path):
    clips(tmp_path, 'a.wav', 'b.wav')
    (tmp_path/'list.csv').write_text('path,emotion,speaker\na.wav,sad,\nb.wav, ,x\n')
    df = load_csv(tmp_path/'list.csv')
    assert df['clip'].tolist() == ['list/a'] and df.speaker.isna().all() and '1 clip without a label' in notes(df)

def test_paths_in_lists(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    clips(tmp_path, 'home/c/a.wav', 'lists/c/b.wav', 'lists/samples/d.flac', 'far off/e.wav', 'lists/Zoe\u0308.wav')
    paths = ['~/c/a.wav', 'c\\b.wav', 'd.flac', (tmp_path/'far off'/'e.wav').as_uri(), 'Zo\u00eb.wav', 'https://example.com/x.wav']
    (tmp_path/'lists'/'l.tsv').write_text('\n'.join(['path\temotion', *(f'{p}\tsad' for p in paths)]))
    monkeypatch.chdir(tmp_path)
    df = load_any('lists/l.tsv')
    assert set(df['clip']) == {'l/home/c/a', 'l/c/b', 'l/d', 'l/far off/e', 'l/Zo\u00eb'} and '1 clip skipped: https://example.com/x.wav is a web' in notes(df)

def test_every_kind_of_list_names_files(tmp_path):
    clips(tmp_path, 'a.wav', 'b, c.wav')
    both = {tmp_path/'a.wav': None, tmp_path/'b, c.wav': None}
    lists = dict(csv='path\na.wav\nb, c.wav\n', tsv='emotion\tpath\n\ta.wav\n\tb, c.wav\n', txt='"a.wav"\n\nb, c.wav\n', m3u='#EXTM3U\na.wav\n#EXTINF:1\nb, c.wav\n')
    for suffix, text in (lists | dict(M3U8=lists['m3u'])).items():
        (tmp_path/f'l.{suffix}').write_text(text)
        assert find_files(tmp_path/f'l.{suffix}') == both
        if suffix != 'tsv':
            with pytest.raises(SerError, match='no column "emotion"'): load_any(str(tmp_path/f'l.{suffix}'))

def test_two_files_of_a_list_that_differ_in_their_suffix_are_two_clips(tmp_path):
    clips(tmp_path, 'a.wav', 'a.flac')
    (tmp_path/'l.csv').write_text('path,emotion\na.wav,sad\na.flac,sad\na.wav,sad\n')
    df = load_csv(tmp_path/'l.csv')
    assert df['clip'].tolist() == ['l/a.flac', 'l/a.wav'] and '1 file ignored, each a second file of a clip' in notes(df)

@pytest.mark.parametrize('name', ['https://example.com/a.wav', 'http://example.com/list.csv', 's3://bucket/clips'])
def test_web_addresses_are_not_downloaded(name):
    for load in load_any, load_csv, load_folder:
        with pytest.raises(SerError, match=f'^{name} is a web address: download'): load(name)
    assert str(find_files(name)[name]).startswith(f'{name} is a web address')

def test_labels_that_differ_in_spelling_are_one(tmp_path):
    clips(tmp_path, *'a.wav b.wav c.wav d.wav e.wav'.split())
    (tmp_path/'l.csv').write_text('path,emotion,speaker\na.wav,Boredom,Ann\nb.wav,boredom,ann \nc.wav, BOREDOM,ann\nd.wav,low  pride,bo\ne.wav,Low_pride,bo\n')
    df = load_csv(tmp_path/'l.csv')
    assert df.emotion.tolist() == ['boredom']*3 + ['low pride']*2 and df.speaker.unique().tolist() == ['l_Ann', 'l_ann', 'l_bo']
    assert '"Boredom" as "boredom"' in notes(df) and 'kept apart: "Ann" and "ann"' in notes(df)
    clips(tmp_path/'own', 'Relief/a.wav', 'relief /b.wav', 'awe/c.wav')
    assert load_folder(tmp_path/'own').emotion.nunique() == 2

def test_a_path_with_a_comma(tmp_path):
    clips(tmp_path/'calls, 2026', 'sad/a.wav', 'angry/b.wav')
    assert len(load_any(str(tmp_path/'calls, 2026'))) == 2

@pytest.mark.parametrize('name,remedy', [('x.zip', 'unpack it'), ('x.xlsx', 'save it as CSV'), ('x.wav', 'name a folder or a CSV')])
def test_a_file_that_is_not_a_list(tmp_path, name, remedy):
    (tmp_path/name).touch()
    with pytest.raises(SerError, match=remedy): load_any(str(tmp_path/name))


# --- layouts of folders

@pytest.mark.parametrize('files,classes,speakers', [
    (['train/angry/a', 'train/happy/b', 'test/angry/a'], 'angry angry happy', ''),
    (['Training Set/Anger/a', 'validation/Joy/b', 'TEST/Anger/a'], 'angry angry happy', ''),
    (['fold1/angry/a', 'fold2/happy/b'], 'angry happy', ''),
    (['corpus/wav/train/angry/a', 'corpus/wav/dev/happy/b'], 'happy angry', ''),
    (['test/angry/a', 'test/happy/b'], 'angry happy', ''),
    (['angry/train/a', 'happy/test/b', 'happy/train/c'], 'angry happy happy', ''),
    (['angry/Actor_01/a', 'happy/Actor_01/b', 'happy/Actor_02/c'], 'angry happy happy', 'Actor_01 Actor_01 Actor_02'),
    (['speaker 1/angry/a', 'speaker 1/happy/b', 'speaker 2/angry/c'], 'angry happy angry', 'speaker 1 speaker 1 speaker 2'),
    (['train/spk1/angry/a', 'test/spk2/happy/b'], 'happy angry', 'spk2 spk1'),
    (['anna/angry/a', 'anna/happy/b', 'bob/angry/c'], 'angry happy angry', ''),
    (['angry/anna/a', 'happy/anna/b', 'happy/bob/c'], 'angry happy happy', ''),
    (['Freude/s1/a', 'Freude/s2/b', 'Zorn/s1/c'], 'Freude Freude Zorn', ''),
    (['s1/Freude/a', 's2/Freude/b', 's1/Zorn/c'], 'Freude Zorn Freude', ''),
    (['Actor_01\\angry\\a', 'Actor_02\\happy\\b'], 'angry happy', 'Actor_01 Actor_02'),
    (['relief/monday/a', 'awe/tuesday/b'], 'awe relief', ''),
    (['Joy/angry/a', 'Ann/happy/b', 'Bob/angry/c'], 'happy angry angry', '')])
def test_the_layer_of_emotions_is_the_class(tmp_path, files, classes, speakers):
    clips(tmp_path/'own', *(f'{f}.wav' for f in files))
    df = load_folder(tmp_path/'own', strict=True)
    assert df.emotion.tolist() == classes.split()
    assert ' '.join(s.removeprefix('own_') for s in df.speaker.dropna()) == speakers
    assert ('ignored as parts' in notes(df)) == bool(re.match('(train|fold|corpus)', files[0], re.IGNORECASE))

@pytest.mark.parametrize('files,words', [
    (['train/a', 'test/b'], 'test, train may be parts of a data set or speakers'), (['Actor_01/a', 'Actor_02/b'], 'no folders are emotions'),
    (['train/a', 'angry/b', 'happy/c'], 'folder train may be parts'), (['anna/Freude/a', 'anna/Zorn/b', 'bob/Zorn/c'], 'anna, bob and the folders Freude, Zorn could both'),
    (['angry/calm/a', 'happy/sad/b'], 'could both be the emotions'), (['Actor_01/03-01-01-01-01-01-01', 'Actor_02/03-01-05-02-02-01-02'], 'name ravdess, with the folder as data')])
def test_an_ambiguous_layout_is_refused(tmp_path, files, words):
    clips(tmp_path/'own', *(f'{f}.wav' for f in files))
    with pytest.raises(SerError, match=words) as e: load_any(str(tmp_path/'own'))
    assert 'one folder per class' in str(e.value) and '\n' not in str(e.value)

def test_what_can_be_read_is_found_and_the_rest_is_counted(tmp_path):
    for i, (f, kind) in enumerate({'sad/a.wave': 'WAV', 'sad/b.aifc': 'AIFF', 'angry/c.oga': 'OGG', 'angry/d.sph': 'NIST', 'angry/e.W64': 'W64', 'sad/f.mp2': 'MP3'}.items()):
        (tmp_path/f).parent.mkdir(exist_ok=True)
        sf.write(tmp_path/f, np.random.default_rng(i).normal(size=4000)*.1, 16000, format=kind)
    for f in 'g.m4a', 'h.M4A', 'i.webm', 'a.mp4': (tmp_path/'sad'/f).write_bytes(b'x')         # a.mp4 is the video of a.wave
    df = load_folder(tmp_path, 'own')
    assert len(df) == 6 and notes(df) == 'own: 3 files cannot be read (2 .m4a, 1 .webm): convert to wav or flac'
    assert describe(df).unreadable.tolist() == [3]
    with pytest.raises(SerError, match='g.m4a: .*convert'): load_folder(tmp_path, strict=True)
    found = find_files(tmp_path)
    assert len(found) == 7 and [str(e) for e in found.values() if e] == [f'{tmp_path}: 4 files cannot be read (2 .m4a, 1 .mp4, 1 .webm): convert to wav or flac']
    for f in df.path: Path(f).unlink()
    with pytest.raises(SerError, match='4 files cannot be read'): load_folder(tmp_path)

def test_unreadable_files_of_a_known_corpus(tmp_path):
    clips(tmp_path/'cremad'/'AudioWAV', '1001_DFA_ANG_XX.wav')
    for f in 'VideoFlash/1001_DFA_ANG_XX.flv', 'AudioWAV/1002_DFA_ANG_XX.m4a', 'AudioWAV/notes.m4a':
        (tmp_path/'cremad'/f).parent.mkdir(exist_ok=True); (tmp_path/'cremad'/f).write_bytes(b'x')
    assert 'cremad: 1 file cannot be read (1 .m4a)' in notes(load_corpus('cremad', tmp_path))   # the others are a video of a clip, and no clip

def test_links_to_folders_are_followed_once(tmp_path):
    clips(tmp_path/'real', 'angry/a.wav', 'happy/b.wav')
    own = tmp_path/'own'; own.mkdir()
    for name in 'angry', 'happy': (own/name).symlink_to(tmp_path/'real'/name)
    for link, to in {'up': tmp_path, 'self': own, 'again': own/'angry', '../real/happy/loop': tmp_path/'real', '../real/angry/b': '../happy'}.items():
        (own/link).symlink_to(to)
    df = load_folder(own, strict=True)
    assert df['clip'].tolist() == ['own/angry/a', 'own/happy/b'] and not notes(df)
    assert len(find_files(str(own/'**'/'*.wav'))) == 2
    clips(tmp_path/'disk', *RAVDESS)
    (tmp_path/'data').mkdir(); (tmp_path/'data'/'ravdess').symlink_to(tmp_path/'disk')
    assert load_corpus('ravdess', tmp_path/'data')['clip'].tolist() == IDS

def test_links_that_became_text(tmp_path):
    clips(tmp_path/'real', 'angry/a.wav', 'happy/b.wav')
    (tmp_path/'own').mkdir()
    for name in 'angry', 'happy': (tmp_path/'own'/name).write_text(f'../real/{name}')
    with pytest.raises(SerError, match='angry; happy contain only the text of symbolic links'): load_folder(tmp_path/'own')

def test_files_with_the_same_fault_are_told_together_from_the_first(tmp_path):
    for i in range(6): (clip(tmp_path/'own'/'sad'/f'{i}.wav')).write_text('version https://git-lfs.github.com/spec/v1\n')
    clips(tmp_path/'own', 'angry/a.wav', 'sad/z.wav')
    told = notes(load_folder(tmp_path/'own'))
    names = ', '.join(str(tmp_path/'own'/'sad'/f'{i}.wav') for i in range(3))
    assert told.startswith('own: 6 clips skipped: ') and f'{names} and 3 more' in told and '\n' not in told


# --- bad input

def test_missing_corpus_says_how_to_get_it(tmp_path):
    for name in CORPORA:
        with pytest.raises(SerError, match=re.escape(f'{CORPORA[name].title} is not in {tmp_path}')): load_corpus(name, tmp_path)
    with pytest.raises(SerError, match='ser_download ravdess'): load_corpus('ravdess', tmp_path/'nowhere')
    with pytest.raises(SerError, match='register at'): load_corpus('savee', tmp_path)

def test_unknown_corpus_lists_the_known(tmp_path):
    for load in (load_corpus, load_corpora, download):
        with pytest.raises(SerError, match='unknown corpus "ravdes"; known: ravdess, savee'): load('ravdes', tmp_path)
    with pytest.raises(SerError, match='unknown corpus "ravdes"'): load_any('ravdes', tmp_path)

def test_empty_folder(tmp_path):
    (tmp_path/'ravdess').mkdir(); (tmp_path/'mine').mkdir()
    with pytest.raises(SerError, match='RAVDESS is not in'): load_corpus('ravdess', tmp_path)
    with pytest.raises(SerError, match='no audio file'): load_folder(tmp_path/'mine')
    with pytest.raises(SerError, match='is not a folder'): load_folder(tmp_path/'nowhere')

@pytest.mark.parametrize('bad', ['truncated', 'empty', 'text', 'silent', 'no samples', 'NaN', 'name', 'label', 'actor'])
def test_one_bad_clip_is_skipped_or_fatal(tmp_path, bad):
    clips(tmp_path/'ravdess', *RAVDESS)
    names = dict(name='holiday.wav', label='03-01-09-01-01-01-02.wav', actor='03-01-02-01-01-01-25.wav')
    f = clip(tmp_path/'ravdess'/'Actor_02'/names.get(bad, '03-01-02-01-01-01-02.wav'))
    if bad == 'truncated': f.write_bytes(f.read_bytes()[:1000])
    if bad == 'empty': f.write_bytes(b'')
    if bad == 'text': f.write_text('I am no sound')
    if bad == 'silent': sf.write(f, np.zeros(16000), 16000)
    if bad == 'no samples': sf.write(f, np.zeros(0), 16000)
    if bad == 'NaN': sf.write(f, np.full(16000, np.nan), 16000, subtype='FLOAT')
    df = load_corpus('ravdess', tmp_path)
    assert df['clip'].tolist() == IDS and 'ravdess: 1 clip skipped: ' in notes(df) and f.name in notes(df)
    assert describe(df).skipped.tolist() == [1] and '1436 of the 1440 published clips' in notes(df)
    with pytest.raises(SerError, match=f.name): load_corpus('ravdess', tmp_path, strict=True)

def test_a_clip_without_sound_below_8_khz_is_skipped(tmp_path):
    clips(tmp_path/'calls', 'sad/a.wav', 'angry/b.wav')
    t = np.arange(24000)/48000
    sf.write(tmp_path/'calls'/'sad'/'bat.wav', .01*np.sin(2*np.pi*15000*t)*np.hanning(len(t)), 48000, subtype='FLOAT')
    df = load_folder(tmp_path/'calls')
    assert df['clip'].tolist() == ['calls/angry/b', 'calls/sad/a'] and 'bat.wav is silent' in notes(df)
    with pytest.raises(SerError, match='bat.wav'): load_folder(tmp_path/'calls', strict=True)

def test_strange_names_in_a_folder_that_is_no_corpus_own(tmp_path):
    clips(tmp_path, *RAVDESS, 'holiday.wav', 'Actor_02/03-01-09-01-01-01-02.wav')
    df = load_corpus('ravdess', tmp_path, strict=True)                                   # they may be of something else
    assert df['clip'].tolist() == IDS and '2 files ignored, not named like a clip of ravdess: ' in notes(df) and 'holiday.wav' in notes(df)

@pytest.mark.parametrize('text', ['', 'ActorID,Age\n1001,51\n', '\0'])
def test_cremad_with_a_broken_table_of_actors(tmp_path, text):
    clips(tmp_path/'cremad'/'AudioWAV', '1001_DFA_ANG_XX.wav')
    (tmp_path/'cremad'/'VideoDemographics.csv').write_text(text)
    with pytest.raises(SerError, match='VideoDemographics.csv has no columns ActorID and Sex'): load_corpus('cremad', tmp_path)

def test_nothing_but_bad_clips(tmp_path):
    (tmp_path/'ravdess').mkdir(); (tmp_path/'ravdess'/Path(RAVDESS[0]).name).write_text('version https://git-lfs.github.com/spec/v1')
    with pytest.raises(SerError, match='no usable clip of ravdess'): load_corpus('ravdess', tmp_path)

def test_the_later_copy_is_dropped(tmp_path):
    for n in RAVDESS: clip(tmp_path/'ravdess'/n, seed=1)
    df = load_corpus('ravdess', tmp_path, strict=True)
    assert df['clip'].tolist() == IDS[:1]
    assert f'2 clips dropped as duplicates: {IDS[1]} has the same samples as {IDS[0]}, labelled neutral and not angry' in notes(df)


# --- zips

def zipped(path, **files):
    with zipfile.ZipFile(path, 'w') as z:
        for n, body in files.items(): z.writestr(n, body)
    return path

@pytest.mark.parametrize('name', ['../out.wav', 'a/../../out.wav', '/tmp/ser-out.wav', 'C:\\out.wav', '..\\out.wav'])
def test_zip_that_climbs_out(tmp_path, name):
    z = zipped(tmp_path/'savee.zip', **{'DC/a01.wav': b'x', name: b'out'})
    with pytest.raises(SerError, match='savee.zip is not safe'): unpack(z, tmp_path/'savee'/'savee')
    with pytest.raises(SerError, match='not safe'): load_corpus('savee', tmp_path)
    assert [p.name for p in tmp_path.rglob('*') if p.is_file()] == ['savee.zip'] and not Path('/tmp/ser-out.wav').exists()

def test_zip_with_a_link(tmp_path):
    i = zipfile.ZipInfo('DC')
    i.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path/'savee.zip', 'w') as z: z.writestr(i, '/etc')
    with pytest.raises(SerError, match='not safe'): load_corpus('savee', tmp_path)

def test_zips_of_windows_and_macos(tmp_path):
    clips(tmp_path/'src', *RAVDESS)
    (data := tmp_path/'data').mkdir()
    with zipfile.ZipFile(data/'RAVDESS.ZIP', 'w') as z:
        for n in RAVDESS: z.write(tmp_path/'src'/n, n.replace('/', '\\\\'))
        z.writestr('Actor_01\\\\', b'')
        for n in '__MACOSX/Actor_01/._a.wav', 'Actor_01\\\\.DS_Store', 'Actor_01\\\\Thumbs.db': z.writestr(n, b'x')
    df = load_corpus('ravdess', data, strict=True)
    assert df['clip'].tolist() == IDS and df.speaker.nunique() == 2
    assert sorted(p.name for p in (data/'ravdess').rglob('*') if p.is_file()) == sorted(Path(n).name for n in RAVDESS)

def test_a_zip_within_a_zip(tmp_path):
    clips(tmp_path/'src', 'DC/a01.wav', 'KL/d02.wav')
    shutil.make_archive(str(tmp_path/'mid'/'inner'), 'zip', tmp_path/'src')
    shutil.make_archive(str(tmp_path/'data'/'AudioData'), 'zip', tmp_path/'mid')
    assert load_corpus('savee', tmp_path/'data')['clip'].tolist() == ['savee/DC/a01', 'savee/KL/d02']
    with pytest.raises(SerError, match=r'zips \(inner.zip\): unpack'): load_folder(tmp_path/'mid')

def test_names_that_another_program_unpacked_with_backslashes(tmp_path):
    for n in RAVDESS: clip(tmp_path/'ravdess'/n.replace('/', '\\\\'))
    clip(tmp_path/'ravdess'/f'__MACOSX\\\\Actor_01\\\\._{Path(RAVDESS[0]).name}')
    assert load_corpus('ravdess', tmp_path, strict=True)['clip'].tolist() == IDS

@pytest.mark.parametrize('encoding', ['cp437', 'utf-8'])
def test_names_with_accents_in_zips_that_do_not_say_how(tmp_path, encoding):
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr('_rger/a.txt', b'x')
    raw = 'Ärger'.encode(encoding)
    (tmp_path/'y.zip').write_bytes((tmp_path/'x.zip').read_bytes().replace(b'_rger', raw) if encoding == 'cp437' else zipped_raw(raw + b'/a.txt'))
    assert [p.name for p in unpack(tmp_path/'y.zip', tmp_path/'y').iterdir()] == ['Ärger']

def zipped_raw(name):
    "A zip with a member of this name, without the flag of UTF-8."
    out, stand_in = io.BytesIO(), '_'*len(name)
    with zipfile.ZipFile(out, 'w') as z: z.writestr(stand_in, b'x')
    return out.getvalue().replace(stand_in.encode(), name)

def test_damaged_zips(tmp_path):
    body = io.BytesIO()
    with zipfile.ZipFile(body, 'w') as z: z.writestr('DC/a01.wav', bytes(range(256))*40)
    flipped = body.getvalue().replace(bytes(range(100)), bytes(100), 1)
    for name, b in dict(half=body.getvalue()[:5000], text=b'no zip', flipped=flipped).items():
        (tmp_path/f'{name}.zip').write_bytes(b)
        with pytest.raises(SerError, match=f'{name}.zip cannot be unpacked'): unpack(tmp_path/f'{name}.zip', tmp_path/name)
        assert not (tmp_path/name).exists()
    assert all(p.suffix == '.zip' for p in tmp_path.iterdir())


# --- downloads

class Server(SimpleHTTPRequestHandler):
    "Serves ranges, or hangs up after `limit` bytes of each answer, or knows no ranges."
    limit, ranges, asked, slow = None, True, [], False
    def do_GET(self):
        body = (Path(self.directory)/self.path[1:]).read_bytes()
        start = int(re.findall(r'\d+', self.headers['Range'])[0]) if self.ranges and self.headers['Range'] else 0
        self.asked.append(start)
        self.send_response(416 if start >= len(body) else 206 if start else 200)
        self.send_header('Content-Length', max(0, len(body) - start)); self.end_headers()
        if self.slow: time.sleep(.3)
        self.wfile.write(body[start:][:self.limit])
    def log_message(self, *args): pass

@pytest.fixture
def server(tmp_path, monkeypatch):
    "A server of one zip with the clips of a small RAVDESS, which the registry takes for the real one."
    (tmp_path/'www').mkdir()
    clips(tmp_path/'src', *RAVDESS)
    shutil.make_archive(str(tmp_path/'www'/'speech'), 'zip', tmp_path/'src')
    class Mine(Server): asked = []
    s = ThreadingHTTPServer(('127.0.0.1', 0), partial(Mine, directory=str(tmp_path/'www')))
    threading.Thread(target=s.serve_forever, args=(.02,), daemon=True).start()
    Mine.url, Mine.file = f'http://127.0.0.1:{s.server_port}/speech.zip', tmp_path/'www'/'speech.zip'
    a = replace(CORPORA['ravdess'].archives[0], url=Mine.url, clips=3, md5=hashlib.md5(Mine.file.read_bytes()).hexdigest())
    monkeypatch.setitem(corpora.CORPORA, 'ravdess', replace(CORPORA['ravdess'], archives=(a,)))
    yield Mine
    s.shutdown(); s.server_close()

def test_download(tmp_path, server):
    folder = download('ravdess', tmp_path/'data')
    assert folder == tmp_path/'data'/'ravdess' and load_corpus('ravdess', tmp_path/'data')['clip'].tolist() == IDS
    assert not list((tmp_path/'data').glob('*.zip*'))
    download('ravdess', tmp_path/'data')
    assert server.asked == [0]

def test_two_programs_fetch_the_same_file_once(tmp_path, server):
    "Two threads, each with a lock of its own, as two programs would have them."
    server.slow, both = True, threading.Barrier(2)
    def get(_): both.wait(60); fetch(server.url, tmp_path/'got.zip')
    with ThreadPoolExecutor(2) as ex: list(ex.map(get, range(2)))
    assert server.asked == [0] and (tmp_path/'got.zip').read_bytes() == server.file.read_bytes()

def test_what_is_there_is_not_downloaded(tmp_path, server):
    clips(tmp_path/'data'/'ravdess', *RAVDESS)
    assert download('ravdess', tmp_path/'data') == tmp_path/'data'/'ravdess' and server.asked == []

def test_what_lies_loose_in_the_data_folder_is_not_downloaded(tmp_path, server):
    clips(tmp_path/'data', *RAVDESS)
    assert download('ravdess', tmp_path/'data') == tmp_path/'data' and server.asked == []

def test_cut_off_download_goes_on(tmp_path, server):
    half = server.file.read_bytes()[:5000]
    (tmp_path/'data').mkdir(); (tmp_path/'data'/'Audio_Speech_Actors_01-24.zip.part').write_bytes(half)
    download('ravdess', tmp_path/'data')
    assert server.asked == [5000] and len(load_corpus('ravdess', tmp_path/'data')) == 3

@pytest.mark.parametrize('ranges', [True, False])
def test_cut_off_download_that_gets_no_further(tmp_path, server, ranges):
    server.limit, server.ranges = 0 if ranges else 4000, ranges
    (tmp_path/'data').mkdir(); (tmp_path/'data'/'Audio_Speech_Actors_01-24.zip.part').write_bytes(server.file.read_bytes()[:5000])
    with pytest.raises(SerError, match='run the same command again'): download('ravdess', tmp_path/'data')
    assert not (tmp_path/'data'/'ravdess').exists() and (tmp_path/'data'/'Audio_Speech_Actors_01-24.zip.part').exists()
    server.limit = None
    assert len(list(download('ravdess', tmp_path/'data').rglob('*.wav'))) == 3

def test_complete_part_and_wrong_part(tmp_path, server):
    part = tmp_path/'data'/'Audio_Speech_Actors_01-24.zip.part'
    part.parent.mkdir(); part.write_bytes(b'x'*10**6)
    with pytest.raises(SerError, match='wrong checksum'): download('ravdess', tmp_path/'data')
    assert not list((tmp_path/'data').iterdir())
    part.write_bytes(server.file.read_bytes())
    assert len(list(download('ravdess', tmp_path/'data').rglob('*.wav'))) == 3

def test_wrong_checksum_is_thrown_away(tmp_path, server, monkeypatch):
    a = replace(CORPORA['ravdess'].archives[0], md5='0'*32)
    monkeypatch.setitem(corpora.CORPORA, 'ravdess', replace(CORPORA['ravdess'], archives=(a,)))
    with pytest.raises(SerError, match='wrong checksum'): download('ravdess', tmp_path/'data')
    assert not [p for p in (tmp_path/'data').rglob('*') if p.is_file()]

def test_no_such_file_no_server_no_program(tmp_path, server):
    with pytest.raises(SerError, match='cannot download'): fetch(server.url.replace('speech', 'lost'), tmp_path/'x.zip')
    with pytest.raises(SerError, match='cannot download'): fetch('http://127.0.0.1:9/x.zip', tmp_path/'x.zip')
    with pytest.raises(SerError, match='register at'): download('savee', tmp_path)

def test_data_folder_that_is_a_file(tmp_path, server):
    (tmp_path/'data').write_text('')
    with pytest.raises(SerError, match='choose another folder'): download('ravdess', tmp_path/'data')

def test_a_mirror_is_held_to_the_same_checksum(tmp_path, server):
    shutil.copy(zipped(tmp_path/'other.zip', a=b'b'), server.file.with_name('mirror.zip'))
    with pytest.raises(SerError, match='wrong checksum'): download('ravdess', tmp_path/'data', url=server.url.replace('speech', 'mirror'))
