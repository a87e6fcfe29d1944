"""Keep MinHash signatures, so that new texts meet old ones without reading these again."""
