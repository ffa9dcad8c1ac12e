"Package metadata comes from `settings.ini`, so that nbdev and pip read one file."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf8')
cfg = config['DEFAULT']
extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'], 'Changelog': f"{cfg['git_url']}/blob/{cfg['branch']}/CHANGELOG.md"},
    long_description=(here/'README.md').read_text(encoding='utf8'), long_description_content_type='text/markdown',
    license_expression=cfg['license_expression'],
    license_files=['LICENSE', 'ser_fastai/bundles/*/LICENSE*', 'ser_fastai/speech_detector/LICENSE'],
    packages=find_packages(include=['ser_fastai', 'ser_fastai.*']),
    package_data={'ser_fastai': ['bundles/*/*', 'speech_detector/*', '*.j2']},
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    classifiers=['Development Status :: 3 - Alpha', 'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3',
                 *(f'Programming Language :: Python :: 3.{v}' for v in (11, 12, 13))],
    zip_safe=False)
