"""Files of pairs of texts that tools of translators read."""
