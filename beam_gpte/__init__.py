"""General-purpose text embeddings in Apache Beam. This list is the public interface."""

import importlib
import typing

import beam_gpte._quiet  # first

# isort: split
import beam_gpte._quick_beam  # before anything is built
import beam_gpte._whole_elements
from beam_gpte.core.columns import Columns as Columns
from beam_gpte.core.encoder.config import EncoderConfig as EncoderConfig
from beam_gpte.core.encoder.config import ModelRuntime as ModelRuntime
from beam_gpte.core.encoder.text_encoder import Encoder as Encoder
from beam_gpte.core.encoder.text_encoder import TextEncoder as TextEncoder
from beam_gpte.core.errors import InputError as InputError
from beam_gpte.core.images.image_encoder import ImageEncoder as ImageEncoder
from beam_gpte.core.metadata import VectorMetadata as VectorMetadata
from beam_gpte.core.scorers.settings import ScoreSettings as ScoreSettings
from beam_gpte.core.served.endpoint import EndpointConfig as EndpointConfig
from beam_gpte.core.sparse.settings import SparseSettings as SparseSettings
from beam_gpte.core.sparse.sparse_encoder import SparseEncoder as SparseEncoder
from beam_gpte.core.static.static_encoder import StaticEncoder as StaticEncoder
from beam_gpte.core.text.minhash import MinHash as MinHash
from beam_gpte.core.vectors.fit_head import HeadOptions as HeadOptions
from beam_gpte.core.vectors.fit_vector_map import VectorMapOptions as VectorMapOptions
from beam_gpte.core.vectors.head import Head as Head
from beam_gpte.core.vectors.vector_map import VectorMap as VectorMap
from beam_gpte.decontamination.decontaminate import Contamination as Contamination
from beam_gpte.decontamination.decontaminate import Decontaminate as Decontaminate
from beam_gpte.decontamination.decontaminate import Decontamination as Decontamination
from beam_gpte.dedup.deduplicate import Deduplicate as Deduplicate
from beam_gpte.dedup.exact import DeduplicateExact as DeduplicateExact
from beam_gpte.dedup.lexical import DeduplicateLexical as DeduplicateLexical
from beam_gpte.dedup.report import Deduplication as Deduplication
from beam_gpte.dedup.semantic import DeduplicateSemantic as DeduplicateSemantic
from beam_gpte.dedup.semantic import SemanticOptions as SemanticOptions
from beam_gpte.dedup.signatures.sign_texts import SignTexts as SignTexts
from beam_gpte.dedup.spans.cut_repeated import CutRepeatedSpans as CutRepeatedSpans
from beam_gpte.dedup.spans.cut_repeated import CutSpans as CutSpans
from beam_gpte.dedup.stream import DeduplicateStream as DeduplicateStream
from beam_gpte.dedup.stream import StreamCells as StreamCells
from beam_gpte.elements.block import Block as Block
from beam_gpte.embedding.distill_static import Distilled as Distilled
from beam_gpte.embedding.distill_static import DistillStatic as DistillStatic
from beam_gpte.embedding.embed_text import EmbedText as EmbedText
from beam_gpte.embedding.images.embed_images import EmbedImages as EmbedImages
from beam_gpte.embedding.images.image_storage import ImageStorage as ImageStorage
from beam_gpte.embedding.multi_vectors.embed_tokens import EmbedTokens as EmbedTokens
from beam_gpte.embedding.multi_vectors.rerank_tokens import RerankTokens as RerankTokens
from beam_gpte.embedding.multi_vectors.token_storage import TokenStorage as TokenStorage
from beam_gpte.embedding.postprocess import ApplyPostprocess as ApplyPostprocess
from beam_gpte.embedding.postprocess import FitPostprocess as FitPostprocess
from beam_gpte.embedding.quantize_vectors import QuantizeVectors as QuantizeVectors
from beam_gpte.embedding.rerank import Rerank as Rerank
from beam_gpte.embedding.reuse import Reuse as Reuse
from beam_gpte.embedding.score_translations import ScoreTranslations as ScoreTranslations
from beam_gpte.embedding.sparse.embed_sparse import EmbedSparse as EmbedSparse
from beam_gpte.mining.bitext_report import Bitext as Bitext
from beam_gpte.mining.bitext_report import BitextOutput as BitextOutput
from beam_gpte.mining.documents.align_documents import AlignDocuments as AlignDocuments
from beam_gpte.mining.documents.pair_documents import PairDocuments as PairDocuments
from beam_gpte.mining.filter_pairs import FilteredPairs as FilteredPairs
from beam_gpte.mining.filter_pairs import FilterPairs as FilterPairs
from beam_gpte.mining.mine_bitext import MineBitext as MineBitext
from beam_gpte.mining.mine_hard_negatives import MineHardNegatives as MineHardNegatives
from beam_gpte.mining.pair_search import PairOptions as PairOptions
from beam_gpte.mining.score_bitext import ScoreBitext as ScoreBitext
from beam_gpte.mining.search import Comparison as Comparison
from beam_gpte.mining.threshold import Thresholding as Thresholding
from beam_gpte.neighbors.apply_head import ApplyHead as ApplyHead
from beam_gpte.neighbors.cluster_vectors import Clustering as Clustering
from beam_gpte.neighbors.cluster_vectors import ClusterVectors as ClusterVectors
from beam_gpte.neighbors.fit_head import FitHead as FitHead
from beam_gpte.neighbors.maps.apply_vector_map import ApplyVectorMap as ApplyVectorMap
from beam_gpte.neighbors.maps.fit_vector_map import FitVectorMap as FitVectorMap
from beam_gpte.neighbors.nearest_neighbors import NearestNeighbors as NearestNeighbors
from beam_gpte.neighbors.nearest_neighbors import NeighborOptions as NeighborOptions
from beam_gpte.shuffle.unique_ids import RejectDuplicateIds as RejectDuplicateIds
from beam_gpte.sinks.bitext.write_moses import WriteMoses as WriteMoses
from beam_gpte.sinks.bitext.write_tmx import WriteTmx as WriteTmx
from beam_gpte.sinks.folders.compact_vectors import CompactVectors as CompactVectors
from beam_gpte.sinks.folders.delete_vectors import Deleted as Deleted
from beam_gpte.sinks.folders.delete_vectors import DeleteVectors as DeleteVectors
from beam_gpte.sinks.folders.replace_options import ReplaceOptions as ReplaceOptions
from beam_gpte.sinks.write_duckdb import DuckDBOptions as DuckDBOptions
from beam_gpte.sinks.write_duckdb import WriteVectorsToDuckDB as WriteVectorsToDuckDB
from beam_gpte.sinks.write_parquet import WriteVectorsToParquet as WriteVectorsToParquet
from beam_gpte.sinks.write_rejects import WriteRejects as WriteRejects
from beam_gpte.sinks.write_summary import WriteSummary as WriteSummary
from beam_gpte.sources.read_corpus import ReadCorpus as ReadCorpus
from beam_gpte.sources.read_corpus import ReadOptions as ReadOptions
from beam_gpte.sources.read_vectors import ReadVectors as ReadVectors
from beam_gpte.sources.watch_corpus import Polling as Polling
from beam_gpte.sources.watch_corpus import WatchCorpus as WatchCorpus
from beam_gpte.text.chunk_text import ChunkText as ChunkText
from beam_gpte.text.chunk_text import FromColumn as FromColumn
from beam_gpte.text.identify_language import IdentifyLanguage as IdentifyLanguage
from beam_gpte.text.split_sentences import SplitSentences as SplitSentences

if typing.TYPE_CHECKING:  # see `_LATE`
    from beam_gpte.embedding.handlers.text_handler import (
        TextEmbeddingModelHandler as TextEmbeddingModelHandler,
    )
    from beam_gpte.interop.enrichment import (
        NearestNeighborsEnrichmentHandler as NearestNeighborsEnrichmentHandler,
    )
    from beam_gpte.interop.ml_transform import GpteTextEmbeddings as GpteTextEmbeddings
    from beam_gpte.interop.rag import DuckDBVectorWriterConfig as DuckDBVectorWriterConfig
    from beam_gpte.interop.rag import ParquetVectorWriterConfig as ParquetVectorWriterConfig

__all__ = [
    "AlignDocuments",
    "ApplyHead",
    "ApplyPostprocess",
    "ApplyVectorMap",
    "Bitext",
    "BitextOutput",
    "Block",
    "ChunkText",
    "ClusterVectors",
    "Clustering",
    "Columns",
    "CompactVectors",
    "Comparison",
    "Contamination",
    "CutRepeatedSpans",
    "CutSpans",
    "Decontaminate",
    "Decontamination",
    "Deduplicate",
    "DeduplicateExact",
    "DeduplicateLexical",
    "DeduplicateSemantic",
    "DeduplicateStream",
    "Deduplication",
    "DeleteVectors",
    "Deleted",
    "DistillStatic",
    "Distilled",
    "DuckDBOptions",
    "DuckDBVectorWriterConfig",
    "EmbedImages",
    "EmbedSparse",
    "EmbedText",
    "EmbedTokens",
    "Encoder",
    "EncoderConfig",
    "EndpointConfig",
    "FilterPairs",
    "FilteredPairs",
    "FitHead",
    "FitPostprocess",
    "FitVectorMap",
    "FromColumn",
    "GpteTextEmbeddings",
    "Head",
    "HeadOptions",
    "IdentifyLanguage",
    "ImageEncoder",
    "ImageStorage",
    "InputError",
    "MinHash",
    "MineBitext",
    "MineHardNegatives",
    "ModelRuntime",
    "NearestNeighbors",
    "NearestNeighborsEnrichmentHandler",
    "NeighborOptions",
    "PairDocuments",
    "PairOptions",
    "ParquetVectorWriterConfig",
    "Polling",
    "QuantizeVectors",
    "ReadCorpus",
    "ReadOptions",
    "ReadVectors",
    "RejectDuplicateIds",
    "ReplaceOptions",
    "Rerank",
    "RerankTokens",
    "Reuse",
    "ScoreBitext",
    "ScoreSettings",
    "ScoreTranslations",
    "SemanticOptions",
    "SignTexts",
    "SparseEncoder",
    "SparseSettings",
    "SplitSentences",
    "StaticEncoder",
    "StreamCells",
    "TextEmbeddingModelHandler",
    "TextEncoder",
    "Thresholding",
    "TokenStorage",
    "VectorMap",
    "VectorMapOptions",
    "VectorMetadata",
    "WatchCorpus",
    "WriteMoses",
    "WriteRejects",
    "WriteSummary",
    "WriteTmx",
    "WriteVectorsToDuckDB",
    "WriteVectorsToParquet",
]

__version__ = "0.1.0"

# Beam's ml package, which these derive from, loads torch where it is installed. What `export` does
# for the others is a line of their class bodies.
_LATE = {
    "DuckDBVectorWriterConfig": "beam_gpte.interop.rag",
    "GpteTextEmbeddings": "beam_gpte.interop.ml_transform",
    "NearestNeighborsEnrichmentHandler": "beam_gpte.interop.enrichment",
    "ParquetVectorWriterConfig": "beam_gpte.interop.rag",
    "TextEmbeddingModelHandler": "beam_gpte.embedding.handlers.text_handler",
}

T = typing.TypeVar("T")


def export(public: T) -> T:
    """Give a public object the path by which users import it, which no later move can break.

    Pickles, `MLTransform` artifacts, YAML and reprs name an object by its `__module__`.
    """
    public.__module__ = __name__
    return public


def __getattr__(name: str) -> object:
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for _public in [value for value in globals().values() if isinstance(value, type)]:
    export(_public)
del _public


beam_gpte._quiet.collect_again()
