"""Find and cut sentences, paragraphs and lines that many texts have."""
