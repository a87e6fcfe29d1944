"""List the engines that are started here."""

from tests.engines.engine import Engine
from tests.engines.flink import Flink
from tests.engines.prism import Prism
from tests.engines.spark import Spark

ENGINES: dict[str, type[Engine]] = {"prism": Prism, "flink": Flink, "spark": Spark}
