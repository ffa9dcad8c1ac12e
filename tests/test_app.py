"The web page: answers, refusals, deletion of uploads, and its appearance in a browser."
import base64, io, json, os, shutil, signal, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import matplotlib.pyplot as plt, numpy as np, pandas as pd, pytest, soundfile as sf

pytest.importorskip('gradio', reason='the web page needs gradio: pip install "ser_fastai[app]"')
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
import requests

from ser_fastai import app as A
from ser_fastai.core import SerError
from ser_fastai.predict import Predictor
from ser_fastai.synth import EXAMPLES, example_clips, make_clip

from test_cli import misused

BROWSER = next(filter(None, map(shutil.which, ('google-chrome', 'chromium', 'chromium-browser'))), None)
DRIVER = shutil.which('chromedriver')
REASON = 'no Chromium with its driver here (apt install chromium chromium-driver): the page is not tested in a browser'
in_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason=REASON)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]

@pytest.fixture(scope='module')
def bundle(): return Predictor()

@pytest.fixture(scope='module')
def page(bundle):
    with A.serving(bundle, port=free_port(), max_mb=1, max_minutes=.5, examples=example_clips()) as (url, uploads): yield url, uploads
    assert not uploads.exists()

@pytest.fixture(scope='module')
def client(page, tmp_path_factory):
    return Client(page[0], verbose=False, download_files=tmp_path_factory.mktemp('client'))

@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    "Three clips of one voice, noise, a long recording, one over the length, one over the size, and a broken file."
    d, x = tmp_path_factory.mktemp('clips'), make_clip((5, 2, 1, 1, 1))
    sf.write(d/'angry.wav', x, 16000)
    for name, emotion in dict(happy=3, sad=4).items(): sf.write(d/f'{name}.wav', make_clip((emotion, 2, 1, 1, 1)), 16000)
    sf.write(d/'noise.wav', .1*np.random.default_rng(0).standard_normal(32000), 16000)
    sf.write(d/'talk.wav', np.resize(x, 16000*10), 16000)
    sf.write(d/'long.ogg', np.resize(x, 16000*25), 16000)
    sf.write(d/'lecture.flac', np.resize(x, 16000*40), 16000)
    (d/'film.wav').write_bytes((d/'angry.wav').read_bytes() + bytes(1_200_000))
    (d/'broken.wav').write_bytes(b'RIFF, but no sound')
    return d

@pytest.fixture
def without_explanation(monkeypatch):
    "Explanations take most of the time of an answer; some tests do not need them."
    monkeypatch.setattr(A, '_player', lambda *args: '<figure class="ser-player"></figure>')

def remaining_files(page): return [p for p in page[1].rglob('*') if p.is_file()]

def ask_endpoint(client, path): return client.predict(handle_file(path), api_name='/predict')

def send_files(url, *paths):
    "Send files in one request, without asking for an answer, and return their paths on the server."
    files = [('files', (path.name, path.read_bytes())) for path in paths]
    return list(map(Path, requests.post(f'{url}gradio_api/upload', files=files, timeout=60).json()))

def send_to_page(url, *paths, event='change', session=None):
    "Messages of the server to a browser session that sends a recording (`change`), or clips to adapt to (`upload`)."
    session, api = session or os.urandom(6).hex(), f'{url}gradio_api'
    dependencies = requests.get(f'{url}config', timeout=60).json()['dependencies']
    event_id = next(d['id'] for d in dependencies if event in [t[1] for t in d['targets']])
    files = [dict(path=str(path), meta=dict(_type='gradio.FileData')) for path in send_files(url, *paths)]
    data = [files if event == 'upload' else files[0], None]   # the second input is the state of the session
    requests.post(f'{api}/queue/join', json=dict(data=data, fn_index=event_id, session_hash=session), timeout=60).raise_for_status()
    with requests.get(f'{api}/queue/data', params=dict(session_hash=session), stream=True, timeout=120) as r:
        for line in r.iter_lines():
            if line.startswith(b'data:'): yield (message := json.loads(line[5:]))
            if line and message['msg'] == 'process_completed': return

def wait_until(condition, seconds):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end
        time.sleep(.1)


# without a browser

def test_endpoint_answers_as_predict(client, clips, bundle, page):
    got = ask_endpoint(client, clips/'angry.wav')
    assert list(got) == bundle.labels
    np.testing.assert_allclose(pd.Series(got), bundle.predict(clips/'angry.wav'), atol=1e-6)
    assert remaining_files(page) == []

def test_the_same_file_from_many_visitors(client, clips, page, bundle):
    "The answer for one visitor must not delete the file of another."
    with ThreadPoolExecutor(4) as ex: got = list(ex.map(lambda _: ask_endpoint(client, clips/'angry.wav'), range(8)))
    assert all(g == got[0] for g in got) and remaining_files(page) == []

@pytest.mark.parametrize('name, said', [('broken.wav', 'broken.wav: '), ('lecture.flac', 'lecture.flac lasts 0:40 minutes')])
def test_refusals_are_one_line(name, said, client, clips, page):
    with pytest.raises(AppError) as e: ask_endpoint(client, clips/name)
    assert said in str(e.value) and str(page[1].parent) not in str(e.value) and remaining_files(page) == []

def test_large_uploads_are_refused_unread(page, clips):
    send = lambda **kw: requests.post(f'{page[0]}gradio_api/upload', timeout=20, **kw)
    r = send(files=dict(files=(clips/'film.wav').read_bytes()))
    assert r.status_code == 413 and 'limit is 1 MB' in r.text
    assert send(data=iter([b'x'*100]), headers={'Content-Type': 'multipart/form-data; boundary=x'}).status_code == 413   # a request without its size
    assert send(files=dict(other=b'x')).status_code == 400
    assert remaining_files(page) == []

def test_uploads_without_an_answer_are_deleted(bundle, clips):
    "The server deletes them after `max_age`, because the page may have been closed."
    with A.serving(bundle, port=free_port(), max_age=.5, threshold=.95) as (url, uploads):
        lost = send_files(url, clips/'angry.wav')[0].parent
        wait_until(lambda: not lost.exists(), 30)
        assert uploads.is_dir() and not list(uploads.iterdir())
        assert 'less than 95 % sure is called uncertain' in requests.get(f'{url}config', timeout=60).text

def test_uploads_do_not_leave_their_folder(page):
    long = requests.post(f'{page[0]}gradio_api/upload', files=dict(files=('𒀀'*76, b'x')), timeout=20)   # 304 bytes
    shutil.rmtree(Path(long.json()[0]).parent)
    r = requests.post(f'{page[0]}gradio_api/upload', files=dict(files=('../../../<b>evil.wav', b'x')), timeout=20)
    path = Path(r.json()[0])
    assert path.parent.parent == page[1] and path.name == '_b_evil.wav'
    shutil.rmtree(path.parent)

def test_files_of_the_server_cannot_be_read(page, client):
    with pytest.raises(Exception): client.predict(dict(path=__file__, meta=dict(_type='gradio.FileData')), api_name='/predict')
    assert Path(__file__).exists()

@pytest.mark.parametrize('address', ['https://example.org/clip.wav', 'http://127.0.0.1:1/clip.wav', 'file:///etc/passwd'])
def test_addresses_are_refused_and_not_fetched(address, page):
    "Gradio would fetch it, and keep it."
    for route in 'call/predict', 'queue/join':
        r = requests.post(f'{page[0]}gradio_api/{route}', json=dict(data=[dict(path=address, meta=dict(_type='gradio.FileData'))], fn_index=0, session_hash='x'), timeout=20)
        assert r.status_code == 400 and 'send the file itself' in r.text
    said = json.dumps(dict(data=[dict(path=address, meta=dict(_type='gradio.FileData'))], fn_index=0, session_hash='x'))
    deep = said[:-1] + ', "z": ' + '['*600 + ']'*600 + '}'                       # nested too deeply to be checked
    for route, body in (('call/predict', deep), ('run/upload', said), ('run/predict', said)):
        r = requests.post(f'{page[0]}gradio_api/{route}', data=body, headers={'Content-Type': 'application/json'}, timeout=20)
        assert r.status_code in (400, 404), (route, r.text)
    assert remaining_files(page) == []

def test_one_answer_at_a_time(page, client, clips, bundle, monkeypatch, without_explanation):
    "Visitors and programs share one queue, so only one recording at a time is in memory."
    recognise, now, most = bundle.recognise, [], []
    def counted(*args, **kwargs):
        now.append(args)
        most.append(len(now))
        time.sleep(.2)
        try: return recognise(*args, **kwargs)
        finally: now.pop()
    monkeypatch.setattr(bundle, 'recognise', counted)
    with ThreadPoolExecutor(4) as ex:
        programs = [ex.submit(ask_endpoint, client, clips/'angry.wav') for _ in range(2)]
        people = [ex.submit(lambda: list(send_to_page(page[0], clips/'talk.wav'))[-1]) for _ in range(2)]
        assert all(p.result() for p in programs) and all('ser-bars' in p.result()['output']['data'][0] for p in people)
    assert most == [1]*4 and remaining_files(page) == []

def test_a_long_recording_shows_its_progress(page, clips, bundle, monkeypatch, without_explanation):
    windows = bundle.windows
    def slow(*args):
        for w in windows(*args):
            time.sleep(.1)
            yield w
    monkeypatch.setattr(bundle, 'windows', slow)
    shares = [m['progress_data'][0]['progress'] for m in send_to_page(page[0], clips/'talk.wav') if m['msg'] == 'progress' and m['progress_data']]
    assert len(set(shares)) > 1 and shares == sorted(shares) and 0 < shares[0] and shares[-1] <= 1
    assert not [m for m in send_to_page(page[0], clips/'angry.wav') if m['msg'] == 'progress' and m['progress_data']]

@pytest.mark.parametrize('threshold', [-.1, 30, float('nan')])
def test_a_threshold_is_a_probability(threshold, bundle):
    with pytest.raises(SerError, match='use a probability from 0 to 1'):
        with A.serving(bundle, port=free_port(), threshold=threshold): pass

@pytest.mark.parametrize('option', ['mb', 'minutes'])
@pytest.mark.parametrize('limit', [0, -1, float('nan'), float('inf'), 1e308])
def test_a_limit_is_positive_and_finite(limit, option, bundle):
    with pytest.raises(SerError, match=f'invalid limit .*: use a positive number for --{option}'):
        with A.serving(bundle, port=free_port(), **{f'max_{option}': limit}): pass

@pytest.mark.parametrize('port', [0, -1, 65536, 70000])
def test_an_invalid_port(port):
    with pytest.raises(SerError, match=f'^invalid port {port}: use 1 to 65535 for --port$'): A.check_port('127.0.0.1', port)

def test_an_exported_bundle_on_the_page(shipped, tmp_path, clips, bundle):
    exported = Predictor(shipped)
    with A.serving(exported, port=free_port()) as (url, uploads):
        got = ask_endpoint(Client(url, verbose=False, download_files=tmp_path), clips/'angry.wav')
        assert remaining_files((url, uploads)) == []
    np.testing.assert_allclose(pd.Series(got), bundle.predict(clips/'angry.wav'), atol=1e-3)
    html = A.answer_html(exported, clips/'talk.wav')
    assert 'Most certain part' in html and 'ser-player' in html

def test_no_recording(client):
    with pytest.raises(AppError, match='no recording'): client.predict(None, api_name='/predict')

def test_a_port_in_use(page, bundle):
    port = int(page[0].rstrip('/').rsplit(':', 1)[1])
    with pytest.raises(SerError, match=f'cannot use port {port} of 127.0.0.1 .*--port'):
        with A.serving(bundle, port=port): pass

def test_markup_in_labels_and_names_stays_text(bundle):
    html = A.probability_bars(pd.Series({'<script>': .6, 'b&b': .4}))
    assert '<script>' not in html and '&lt;script&gt;' in html and 'b&amp;b' in html

def test_an_answer_of_a_long_recording(bundle, clips):
    html = A.answer_html(bundle, clips/'talk.wav')
    assert 'average over the whole' in html and 'Most certain part' in html and '<details>' in html and '0:10' in html and '<script>' not in html
    short = A.answer_html(bundle, clips/'angry.wav')
    assert '<details>' not in short and 'ser-player' in short and A.answer_sentence(bundle.predict(clips/'angry.wav')) in short
    assert '<h2>uncertain: no emotion' in A.answer_html(bundle, clips/'angry.wav', threshold=1.) and 'uncertain' not in A.answer_html(bundle, clips/'angry.wav', threshold=0.)

def test_the_explained_samples_are_the_classified_ones(bundle, tmp_path, monkeypatch):
    "Also of a recording in stereo with another sample rate."
    explain, explained = A.explain, []
    def record(p, audio, sr, label):
        explained.append((next(p.windows(audio, sr))[1], label))
        return explain(p, audio, sr, label)
    monkeypatch.setattr(A, 'explain', record)
    left = np.concatenate([make_clip((e, 2, 1, 1, 1)) for e in (2, 3, 6, 4, 5)*5])/2**15
    sf.write(tmp_path/'talk.flac', np.stack([left, .2*np.roll(left, 999)], 1), 44100)
    A.answer_html(bundle, tmp_path/'talk.flac')
    (x, label), timeline = explained[0], bundle.timeline(tmp_path/'talk.flac')
    surest = timeline.start[timeline[label].idxmax()]
    assert len(timeline) > 3
    answered = next(w for start, w in bundle.windows(tmp_path/'talk.flac') if start/bundle.sr == surest)
    np.testing.assert_allclose(x, answered - answered.mean(), atol=1e-6)   # without the mean of the window, as for its features


def test_a_recording_without_speech(page, client, clips):
    "The page says what to do, and programs get no probabilities."
    assert [m for m in send_to_page(page[0], clips/'noise.wav')][-1]['output']['data'][0] == A.NO_SPEECH_HTML
    assert set(ask_endpoint(client, clips/'noise.wav').values()) == {None} and remaining_files(page) == []

def status(url, *paths, session=None): return [*send_to_page(url, *paths, event='upload', session=session)][-1]['output']['data'][2]

def test_a_session_adapts_to_a_voice(page, clips, bundle, without_explanation):
    "Only this session, until the profile is removed; no file is kept, and a saved profile gives the same answer."
    me, other = 'me', 'other'
    html = status(page[0], clips/'happy.wav', clips/'sad.wav', clips/'noise.wav', session=me)
    assert 'Adapted to 2 clips. Files that contain no speech or cannot be read were left out.' in html and remaining_files(page) == []
    answers = {s: [*send_to_page(page[0], clips/'angry.wav', session=s)][-1]['output']['data'][0] for s in (me, other)}
    assert 'Adapted to 2 clips' in answers[me] and 'Adapted' not in answers[other]
    adapted = bundle.adapt([clips/'happy.wav', clips/'sad.wav'])
    assert A.answer_sentence(adapted.predict(clips/'angry.wav')) in answers[me]
    (clips/'me.json').write_bytes(base64.b64decode(html.partition('base64,')[2].partition('"')[0]))
    assert 'Adapted to 2 clips.' in status(page[0], clips/'me.json', session='later') and remaining_files(page) == []
    answer = [*send_to_page(page[0], clips/'angry.wav', session='later')][-1]['output']['data'][0]
    assert answer == answers[me]
    np.testing.assert_allclose(Predictor(profile=clips/'me.json').predict(clips/'angry.wav'), adapted.predict(clips/'angry.wav'), atol=1e-3)

@pytest.mark.parametrize('names, message', [
    (['angry.wav'], 'cannot adapt: one clip is not enough: use two or more clips of the speaker'),
    (['noise.wav', 'noise.wav'], 'cannot adapt: no clip with speech (not usable: '),
    (['angry.wav', 'broken.wav'], 'broken.wav: '),
    (['long.ogg', 'long.ogg'], 'together, the recordings last 0:50 minutes; the limit is 0.5'),
    (['other.json'], 'the profile other.json was made with another model: use two or more clips'),
    (['text.json'], 'cannot read the profile text.json'),
    (['other.json', 'angry.wav'], 'cannot adapt to several profiles, or to clips and a profile: use one profile')])
def test_an_adaptation_that_fails_is_explained_in_one_line(names, message, page, clips):
    profile = dict(model='another', n_clips=2, offset=[0.], scale=[1.])
    (clips/'other.json').write_text(json.dumps(profile))
    (clips/'text.json').write_text('hello')
    html = status(page[0], *[clips/name for name in names])
    text = html.removeprefix('<div class="ser"><p role="alert">').removesuffix('</p></div>')
    assert message in text and not set(text) & set('<\n') and '--' not in text and str(page[1]) not in text and remaining_files(page) == []

def test_too_many_files_in_one_upload(page, clips):
    r = requests.post(f'{page[0]}gradio_api/upload', files=[('files', (f'{i}.wav', b'x')) for i in range(A.MAX_FILES + 1)], timeout=60)
    assert r.status_code == 400 and remaining_files(page) == []

def test_a_model_without_an_embedding_has_no_box_for_adaptation(tmp_path):
    def ids(bundle): return {c['props'].get('elem_id') for c in A.build_app(bundle, tmp_path).config['components']}
    assert 'voice' not in ids(Predictor('cnn')) and 'voice' in ids(Predictor())


# in a browser

@pytest.fixture(scope='module')
def driver():
    webdriver = pytest.importorskip('selenium.webdriver', reason='no selenium here (pip install selenium): the page is not tested in a browser')
    o = webdriver.ChromeOptions()
    o.binary_location = BROWSER
    o.set_capability('goog:loggingPrefs', dict(performance='ALL'))
    for a in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'autoplay-policy=no-user-gesture-required', 'window-size=1280,1000', 'hide-scrollbars',
              'use-fake-device-for-media-stream', 'use-fake-ui-for-media-stream'): o.add_argument(f'--{a}')
    d = webdriver.Chrome(options=o, service=webdriver.ChromeService(DRIVER))
    yield d
    d.quit()

def find(d, css, seconds=120):
    "The first element that matches, once it exists."
    end = time.time() + seconds
    while not (e := d.find_elements('css selector', css)):
        assert time.time() < end, f'{css} did not appear: {d.find_element("css selector", "body").text[:300]}'
        time.sleep(.1)
    return e[0]

def open_page(d, page, path=None):
    d.get(page[0])
    file = find(d, '#recording input[type=file]')
    if path: file.send_keys(str(path))

@in_browser
def test_upload_answer_and_player(driver, page, clips, bundle):
    open_page(driver, page, clips/'talk.wav')
    assert find(driver, '#answer h2').text == A.answer_sentence(bundle.predict(clips/'talk.wav'))
    assert len(driver.find_elements('css selector', '#answer .ser-bars tr')) == len(bundle.labels)
    assert find(driver, '#answer img.ser-picture').is_displayed()
    assert remaining_files(page) == []
    at = 'return parseFloat(document.querySelector("figure.ser-player span").style.left)'
    before = driver.execute_script(at)
    driver.execute_script('document.querySelector("figure.ser-player audio").play()')
    end = time.time() + 10
    while driver.execute_script(at) <= before + 1: assert time.time() < end, 'the marker does not move'

@in_browser
def test_the_page_works_offline(driver, page):
    "Every request goes to the page itself."
    driver.get_log('performance')
    open_page(driver, page)
    messages = [json.loads(e['message'])['message'] for e in driver.get_log('performance')]
    urls = [m['params']['request']['url'] for m in messages if m['method'] == 'Network.requestWillBeSent']
    assert 'Content-Security-Policy' in requests.get(page[0], timeout=20).text
    assert len(urls) > 5 and [u for u in urls if not u.startswith((page[0], 'data:', 'blob:'))] == []

@in_browser
def test_a_broken_file_is_refused(driver, page, clips):
    open_page(driver, page, clips/'broken.wav')
    assert 'broken.wav: ' in find(driver, '#answer [role=alert]').text
    assert not driver.find_elements('css selector', '#answer .ser-bars') and remaining_files(page) == []

@in_browser
def test_a_large_file_is_refused(driver, page, clips):
    open_page(driver, page, clips/'film.wav')
    said = find(driver, '#answer [role=alert]').text
    assert 'film.wav is too large: the limit is 1 MB' in said and not driver.find_elements('css selector', '.ser-wait') and remaining_files(page) == []

@in_browser
def test_the_file_dialogue_offers_the_readable_formats(driver, page, clips, without_explanation):
    open_page(driver, page)
    assert driver.find_element('css selector', '#recording input[type=file]').get_attribute('accept') == ','.join(A.AUDIO_FORMATS)
    (clips/'voice & me.webm').write_bytes(bytes(100))
    open_page(driver, page, clips/'voice & me.webm')
    said = find(driver, '#answer [role=alert]').text
    assert 'cannot read voice _ me.webm: convert it to wav, flac, mp3 or ogg' in said and '\n' not in said.split('No answer\n')[1]
    assert not driver.find_elements('css selector', '.ser-wait') and not driver.find_elements('css selector', '.toast-body') and remaining_files(page) == []
    x = make_clip((5, 2, 1, 1, 1))
    for kind, options in dict(ogg={}, oga=dict(format='OGG'), opus=dict(format='OGG', subtype='OPUS'), aif=dict(format='AIFF'), flac={}, mp3=dict(format='MP3')).items():
        sf.write(clips/f'fine.{kind}', x, 16000, **options)
        open_page(driver, page, clips/f'fine.{kind}')
        assert 'sure' in find(driver, '#answer h2').text or 'uncertain' in find(driver, '#answer h2').text, kind

@in_browser
def test_adaptation_in_the_browser(driver, page, clips, without_explanation):
    open_page(driver, page)
    box = lambda *names: find(driver, '#voice input[type=file]').send_keys('\n'.join(str(clips/name) for name in names))
    assert find(driver, '#voice input[type=file]').get_attribute('accept') == ','.join([*A.AUDIO_FORMATS, '.json'])
    box('angry.wav', 'film.wav')
    assert 'The selection is too large: the limit is 1 MB' in find(driver, '#adaptation [role=alert]').text and remaining_files(page) == []
    box('angry.wav')
    wait_until(lambda: 'one clip is not enough' in find(driver, '#adaptation').text, 60)
    box('happy.wav', 'sad.wav')
    assert find(driver, '#adaptation [role=status]').text == 'Adapted to 2 clips. Save this profile'
    assert find(driver, '#adaptation a[download]').get_attribute('href').startswith('data:application/json')
    find(driver, '#recording input[type=file]').send_keys(str(clips/'angry.wav'))
    assert find(driver, '#answer h2') and 'Adapted to 2 clips of a voice.' in driver.find_element('css selector', '#answer').text
    find(driver, '#remove').click()
    wait_until(lambda: not driver.find_elements('css selector', '#adaptation [role=status]'), 60)
    wait_until(lambda: not [b for b in driver.find_elements('css selector', '#remove') if b.is_displayed()], 60)
    assert remaining_files(page) == []

@in_browser
def test_an_example(driver, page):
    "An example gets an answer and is not deleted."
    open_page(driver, page)
    find(driver, '#examples button').click()
    assert find(driver, '#answer h2').text
    assert len(list((page[1].parent/'clips').glob('*.wav'))) == len(EXAMPLES)

@in_browser
@pytest.mark.parametrize('width, height', [(1280, 900), (390, 844)])
def test_desktop_and_phone(width, height, driver, page, clips, tmp_path):
    "Nothing is wider than the screen, and the answer is visible without scrolling."
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500))
    try:
        open_page(driver, page, clips/'talk.wav')
        answer, recording = find(driver, '#answer h2'), find(driver, '#recording').rect
        assert answer.is_displayed() and answer.rect['y'] + answer.rect['height'] < height
        if width < 500: assert recording['y'] + recording['height'] < answer.rect['y'] < find(driver, '#examples').rect['y'], 'one column, the answer second'
        else: assert answer.rect['x'] > recording['x'] + recording['width'], 'two columns'
        assert driver.execute_script('return document.documentElement.scrollWidth') <= width
        shown = driver.find_elements('css selector', '#answer h2, #answer .ser-bars tr, #answer img, #answer audio, #examples button')
        assert len(shown) == 1 + 8 + 2 + 1 + 4
        for e in shown: assert e.is_displayed() and e.rect['width'] > 40 and 0 <= e.rect['x'] and e.rect['x'] + e.rect['width'] <= width, e.tag_name
        bar = driver.find_elements('css selector', '#answer .ser-bar div')[0].rect['width']
        assert bar > .05*width, 'the longest bar can be seen'
        picture = base64.b64decode(driver.execute_cdp_cmd('Page.captureScreenshot', dict(format='png', captureBeyondViewport=True))['data'])
        (tmp_path/f'app_{width}.png').write_bytes(picture)
        pixels = plt.imread(io.BytesIO(picture))
        assert pixels.shape[1] == width and pixels.shape[0] >= height and len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 500
    finally: driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})

@in_browser
def test_a_microphone(driver, page):
    "Chromium's simulated microphone gets an answer, and no file is kept."
    open_page(driver, page)
    find(driver, '#recording button[aria-label="Record audio"]').click()
    find(driver, '#recording .record-button').click()
    time.sleep(2.5)
    find(driver, '#recording .stop-button').click()
    assert find(driver, '#answer h2').text and remaining_files(page) == []


# the command

BIN = Path(sys.executable).parent

def test_the_command(clips, bundle, tmp_path):
    "It starts, answers, and stops on SIGINT without output or files, even if an upload is waiting."
    port, (tmp, got) = free_port(), (tmp_path/'tmp', tmp_path/'client')
    url = f'http://127.0.0.1:{port}/'
    tmp.mkdir(), got.mkdir()
    nowhere = {k: 'socks5://127.0.0.1:9' if 'all' in k.lower() else 'http://127.0.0.1:9' for name in ('http_proxy', 'https_proxy', 'all_proxy') for k in (name, name.upper())}
    env = os.environ | nowhere | dict(TMPDIR=str(tmp), no_proxy='', NO_PROXY='')     # as in an office with a proxy
    with subprocess.Popen([BIN/'ser_app', '--port', str(port)], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        try:
            assert p.stdout.readline() == f'{url} (stop with Ctrl-C)\n', p.stderr.read()
            answer = ask_endpoint(Client(url, verbose=False, download_files=got), clips/'angry.wav')
            np.testing.assert_allclose(pd.Series(answer), bundle.predict(clips/'angry.wav'), atol=1e-5)
            with socket.create_connection(('127.0.0.1', port)) as s:   # a tab that is closed during an upload
                s.sendall(b'POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n')
                time.sleep(1)
            assert send_files(url, clips/'angry.wav')[0].is_relative_to(tmp) and list(tmp.rglob('angry.wav'))
            p.send_signal(signal.SIGINT)
            out, err = p.communicate(timeout=120)
        finally: p.kill()
    assert p.returncode == 0 and out == '' and 'Traceback' not in err and 'Error' not in err
    left = [f for f in tmp.rglob('*') if f.is_file() and f.name != '.ses']   # onnxruntime's own file
    assert left == [] and not list(tmp.glob('ser_app*'))

def test_sigterm_stops_the_server(monkeypatch):
    "SIGTERM works like Ctrl-C: the folder of uploads is deleted."
    ended = []
    @contextmanager
    def serving(*args, **kw):
        try: yield 'http://here/', None
        finally: ended.append(True)
    monkeypatch.setattr(A, 'serving', serving); monkeypatch.setattr(A, 'Predictor', lambda bundle: None)
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    Timer(.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    try: A.serve(None, '127.0.0.1', free_port())
    finally: [signal.signal(s, handler) for s, handler in before.items()]
    assert ended

def test_wrong_options_of_the_command_give_one_line(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        got = misused([['ser_app', '--port', str(taken.getsockname()[1])], ['ser_app', '--bundle', 'nowhere', '--port', str(free_port())]], tmp_path)
    for (status, told), says in zip(got, ('name another --port', 'name the folder of a bundle'), strict=True):
        assert status == 2 and says in told and len(told.strip().splitlines()) == 1
