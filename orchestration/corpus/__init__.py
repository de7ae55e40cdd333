"""Text in: files to documents, documents to tokens, tokens to rows of a dataset."""
