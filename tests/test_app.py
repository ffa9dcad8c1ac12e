"The web page: what it answers, what it refuses, that it keeps nothing, and how it looks to a visitor in a browser."
import json, shutil, socket, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np, pandas as pd, pytest, soundfile as sf

pytest.importorskip('gradio', reason='the web page needs gradio: pip install "ser_fastai[app]"')
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
import requests

from ser_fastai import app as A
from ser_fastai.cli import ser_app
from ser_fastai.core import SerError
from ser_fastai.predict import load_bundle
from ser_fastai.synth import make_clip

BROWSER = next(filter(None, map(shutil.which, ('google-chrome', 'chromium', 'chromium-browser'))), None)
DRIVER = shutil.which('chromedriver')
in_browser = pytest.mark.skipif(not (BROWSER and DRIVER), reason='no Chromium with its driver here (apt install chromium chromium-driver):'
                                                                 ' the page is not tested in a browser')


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]

@pytest.fixture(scope='module')
def bundle(): return load_bundle()

@pytest.fixture(scope='module')
def page(bundle):
    with A.serving(bundle, port=free_port(), max_mb=1, max_minutes=.5) as (url, uploads): yield url, uploads
    assert not uploads.exists()

@pytest.fixture(scope='module')
def client(page, tmp_path_factory): return Client(page[0], verbose=False, download_files=tmp_path_factory.mktemp('client'))

@pytest.fixture(scope='module')
def clips(tmp_path_factory):
    "A clip, a long recording, one over the length, one over the size, and what is no sound."
    d, x = tmp_path_factory.mktemp('clips'), make_clip((5, 2, 1, 1, 1))
    sf.write(d/'angry.wav', x, 16000)
    sf.write(d/'talk.wav', np.resize(x, 16000*20), 16000)
    sf.write(d/'lecture.flac', np.resize(x, 16000*40), 16000)
    (d/'film.wav').write_bytes((d/'angry.wav').read_bytes() + bytes(1_200_000))
    (d/'broken.wav').write_bytes(b'RIFF, but no sound')
    return d

def left(page): return [p for p in page[1].rglob('*') if p.is_file()]

def asked(client, path): return client.predict(handle_file(path), api_name='/predict')


# without a browser

def test_endpoint_answers_as_predict(client, clips, bundle, page):
    got = asked(client, clips/'angry.wav')
    assert list(got) == bundle.labels
    np.testing.assert_allclose(pd.Series(got), bundle.predict(clips/'angry.wav'), atol=1e-6)
    assert left(page) == []

def test_the_same_file_from_many_visitors(client, clips, page, bundle):
    "An answer to one must not take the file away from another."
    with ThreadPoolExecutor(4) as ex: got = list(ex.map(lambda _: asked(client, clips/'angry.wav'), range(8)))
    assert all(g == got[0] for g in got) and left(page) == []

@pytest.mark.parametrize('name, said', [('broken.wav', 'broken.wav cannot be read as audio'), ('lecture.flac', 'lecture.flac lasts 0:40 minutes')])
def test_refusals_are_a_sentence(name, said, client, clips, page):
    with pytest.raises(AppError) as e: asked(client, clips/name)
    assert said in str(e.value) and str(page[1].parent) not in str(e.value) and left(page) == []

def test_too_large_is_refused_unread(page, clips):
    send = lambda **kw: requests.post(f'{page[0]}gradio_api/upload', timeout=20, **kw)
    r = send(files=dict(files=(clips/'film.wav').read_bytes()))
    assert r.status_code == 413 and 'up to 1 MB' in r.text
    assert send(data=iter([b'x'*100]), headers={'Content-Type': 'multipart/form-data; boundary=x'}).status_code == 413   # a size that is not said
    assert send(files=dict(other=b'x')).status_code == 400
    assert left(page) == []

def test_an_upload_that_goes_away_meanwhile_is_no_error(page):
    gone = page[1]/'upload-gone'
    gone.symlink_to(page[1]/'nowhere')     # as if another visitor's answer had just taken it away
    r = requests.post(f'{page[0]}gradio_api/upload', files=dict(files=('clip.wav', b'x')), timeout=20)
    gone.unlink()
    assert r.status_code == 200
    shutil.rmtree(Path(r.json()[0]).parent)

def test_uploads_do_not_leave_their_folder(page):
    r = requests.post(f'{page[0]}gradio_api/upload', files=dict(files=('../../../<b>evil.wav', b'x')), timeout=20)
    path = Path(r.json()[0])
    assert path.parent.parent == page[1] and path.name == '_b_evil.wav'
    shutil.rmtree(path.parent)

def test_files_of_the_server_cannot_be_asked_about(page, client):
    with pytest.raises(Exception): client.predict(dict(path=__file__, meta=dict(_type='gradio.FileData')), api_name='/predict')
    assert Path(__file__).exists()

@pytest.mark.parametrize('address', ['https://example.org/clip.wav', 'http://127.0.0.1:1/clip.wav', 'file:///etc/passwd'])
def test_an_address_is_refused_unfetched(address, page):
    "Gradio would fetch it, and keep it."
    for route in 'call/predict', 'queue/join':
        r = requests.post(f'{page[0]}gradio_api/{route}', json=dict(data=[dict(path=address, meta=dict(_type='gradio.FileData'))], fn_index=0, session_hash='x'), timeout=20)
        assert r.status_code == 400 and 'send the file itself' in r.text
    assert left(page) == []

def test_an_exported_bundle_on_the_page(tmp_path, clips):
    pytest.importorskip('onnxruntime')
    from ser_fastai.export import export_bundle
    exported = load_bundle(export_bundle(tmp_path/'out'))
    with A.serving(exported, port=free_port()) as (url, uploads):
        got = asked(Client(url, verbose=False, download_files=tmp_path), clips/'angry.wav')
        assert left((url, uploads)) == []
    np.testing.assert_allclose(pd.Series(got), load_bundle().predict(clips/'angry.wav'), atol=1e-3)
    html = A.show(exported, clips/'talk.wav')
    assert 'Where it is surest' in html and 'less likely' in html and 'ser-player' in html

def test_no_recording_is_a_sentence(client):
    with pytest.raises(AppError, match='no recording'): client.predict(None, api_name='/predict')

def test_a_taken_port_is_one_sentence(page, bundle):
    port = int(page[0].rstrip('/').rsplit(':', 1)[1])
    with pytest.raises(SerError, match=f'port {port} of 127.0.0.1 cannot be had .*--port'):
        with A.serving(bundle, port=port): pass

def test_markup_in_labels_and_names_stays_text(bundle):
    html = A.bars(pd.Series({'<script>': .6, 'b&b': .4}))
    assert '<script>' not in html and '&lt;script&gt;' in html and 'b&amp;b' in html

def test_an_answer_of_a_long_recording(bundle, clips):
    html = A.show(bundle, clips/'talk.wav')
    assert 'average over the whole' in html and 'Where it is surest' in html and '<details>' in html and '0:20' in html and '<script>' not in html
    short = A.show(bundle, clips/'angry.wav')
    assert '<details>' not in short and 'ser-player' in short and A.in_a_line(bundle.predict(clips/'angry.wav')) in short


# in a browser

@pytest.fixture(scope='module')
def driver():
    webdriver = pytest.importorskip('selenium.webdriver', reason='no selenium here (pip install selenium): the page is not tested in a browser')
    o = webdriver.ChromeOptions()
    o.binary_location = BROWSER
    o.set_capability('goog:loggingPrefs', dict(performance='ALL'))
    for a in ('headless=new', 'no-sandbox', 'disable-dev-shm-usage', 'autoplay-policy=no-user-gesture-required', 'window-size=1280,1000',
              'use-fake-device-for-media-stream', 'use-fake-ui-for-media-stream'): o.add_argument(f'--{a}')
    d = webdriver.Chrome(options=o, service=webdriver.ChromeService(DRIVER))
    yield d
    d.quit()

def found(d, css, seconds=40):
    "The first element, as soon as it is there."
    end = time.time() + seconds
    while not (e := d.find_elements('css selector', css)):
        assert time.time() < end, f'{css} did not appear: {d.find_element("css selector", "body").text[:300]}'
        time.sleep(.1)
    return e[0]

def opened(d, page, path=None):
    d.get(page[0])
    file = found(d, '#recording input[type=file]')
    if path: file.send_keys(str(path))

@in_browser
def test_upload_answer_and_player(driver, page, clips, bundle):
    opened(driver, page, clips/'talk.wav')
    assert found(driver, '#answer h2').text == A.in_a_line(bundle.predict(clips/'talk.wav'))
    assert len(driver.find_elements('css selector', '#answer .ser-bars tr')) == len(bundle.labels)
    assert found(driver, '#answer img.ser-picture').is_displayed()
    assert left(page) == []
    at = 'return parseFloat(document.querySelector("figure.ser-player span").style.left)'
    before = driver.execute_script(at)
    driver.execute_script('document.querySelector("figure.ser-player audio").play()')
    end = time.time() + 10
    while driver.execute_script(at) <= before + 1: assert time.time() < end, 'the marker does not move'

@in_browser
def test_the_page_asks_no_one_else(driver, page):
    "It works offline: every request goes to the page itself."
    driver.get_log('performance')
    opened(driver, page)
    sent = [json.loads(e['message'])['message'] for e in driver.get_log('performance')]
    urls = [m['params']['request']['url'] for m in sent if m['method'] == 'Network.requestWillBeSent']
    assert 'Content-Security-Policy' in requests.get(page[0], timeout=20).text
    assert len(urls) > 5 and [u for u in urls if not u.startswith((page[0], 'data:', 'blob:'))] == []

@in_browser
def test_a_broken_file_gives_its_sentence(driver, page, clips):
    opened(driver, page, clips/'broken.wav')
    assert 'broken.wav cannot be read as audio' in found(driver, '#answer [role=alert]').text
    assert not driver.find_elements('css selector', '#answer .ser-bars') and left(page) == []

@in_browser
def test_a_large_file_gives_a_sentence(driver, page, clips):
    opened(driver, page, clips/'film.wav')
    said = found(driver, '.toast-body').get_attribute('textContent')
    assert 'maximum' in said and '1.0 Mb' in said, said

@in_browser
def test_an_example(driver, page):
    "It is answered, and stays for the next visitor."
    opened(driver, page)
    found(driver, '#examples button').click()
    assert found(driver, '#answer h2').text
    assert len(list((page[1].parent/'clips').glob('*.wav'))) == len(A.EXAMPLES)

@in_browser
def test_a_phone(driver, page, clips):
    "One column, nothing wider than the screen."
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=390, height=844, deviceScaleFactor=1, mobile=True))
    try:
        opened(driver, page, clips/'talk.wav')
        recording, answer = (found(driver, s).rect for s in ('#recording', '#answer h2'))
        assert answer['y'] > recording['y'] + recording['height']
        assert driver.execute_script('return document.documentElement.scrollWidth') <= 390
    finally: driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})

@in_browser
def test_a_microphone(driver, page):
    "Chromium's made-up microphone beeps; it is heard, and nothing of it stays."
    opened(driver, page)
    found(driver, '#recording button[aria-label="Record audio"]').click()
    found(driver, '#recording .record-button').click()
    time.sleep(2.5)
    found(driver, '#recording .stop-button').click()
    assert found(driver, '#answer h2').text and left(page) == []


# the command

def test_the_command_refuses_a_taken_port(page, capsys):
    with pytest.raises(SystemExit) as e: ser_app(port=int(page[0].rstrip('/').rsplit(':', 1)[1]))
    said = capsys.readouterr().err
    assert e.value.code == 2 and 'name another with --port' in said and len(said.strip().splitlines()) == 1
