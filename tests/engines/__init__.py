"""Run the product on Beam's other runners: Prism, a Flink cluster of two hosts, and Spark."""
