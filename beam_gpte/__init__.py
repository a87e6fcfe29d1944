"""General-purpose text embeddings in Apache Beam. This list is the public interface."""

import importlib

import beam_gpte._quiet  # noqa: F401  # first
from beam_gpte.align_documents import AlignDocuments as AlignDocuments
from beam_gpte.block import Block as Block
from beam_gpte.chunk_text import ChunkText as ChunkText
from beam_gpte.core.config import EncoderConfig as EncoderConfig
from beam_gpte.core.encoder import Encoder as Encoder
from beam_gpte.core.encoder import TextEncoder as TextEncoder
from beam_gpte.core.errors import InputError as InputError
from beam_gpte.core.metadata import VectorMetadata as VectorMetadata
from beam_gpte.deduplicate_exact import DeduplicateExact as DeduplicateExact
from beam_gpte.deduplicate_lexical import DeduplicateLexical as DeduplicateLexical
from beam_gpte.deduplicate_semantic import DeduplicateSemantic as DeduplicateSemantic
from beam_gpte.deduplicate_stream import DeduplicateStream as DeduplicateStream
from beam_gpte.deduplication import Deduplicate as Deduplicate
from beam_gpte.deduplication import Deduplication as Deduplication
from beam_gpte.embed import EmbedText as EmbedText
from beam_gpte.filter_pairs import FilteredPairs as FilteredPairs
from beam_gpte.filter_pairs import FilterPairs as FilterPairs
from beam_gpte.identify_language import IdentifyLanguage as IdentifyLanguage
from beam_gpte.ids import RejectDuplicateIds as RejectDuplicateIds
from beam_gpte.mine_bitext import Bitext as Bitext
from beam_gpte.mine_bitext import MineBitext as MineBitext
from beam_gpte.mine_hard_negatives import MineHardNegatives as MineHardNegatives
from beam_gpte.postprocess import ApplyPostprocess as ApplyPostprocess
from beam_gpte.postprocess import FitPostprocess as FitPostprocess
from beam_gpte.quantize import QuantizeVectors as QuantizeVectors
from beam_gpte.read import ReadCorpus as ReadCorpus
from beam_gpte.read_vectors import ReadVectors as ReadVectors
from beam_gpte.rerank import Rerank as Rerank
from beam_gpte.score_bitext import ScoreBitext as ScoreBitext
from beam_gpte.split_sentences import SplitSentences as SplitSentences
from beam_gpte.watch import WatchCorpus as WatchCorpus
from beam_gpte.write_duckdb import WriteVectorsToDuckDB as WriteVectorsToDuckDB
from beam_gpte.write_jsonl import WriteRejects as WriteRejects
from beam_gpte.write_parquet import WriteVectorsToParquet as WriteVectorsToParquet
from beam_gpte.write_summary import WriteSummary as WriteSummary

# Beam's ml package, which these derive from, loads torch where it is installed.
_LATE = {
    "DuckDBVectorWriterConfig": "beam_gpte.rag",
    "GpteTextEmbeddings": "beam_gpte.ml_transform",
    "ParquetVectorWriterConfig": "beam_gpte.rag",
    "TextEmbeddingModelHandler": "beam_gpte.model_handler",
}


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
