"""Reading rows by plan or by index: the reader, the node's disk cache, and shared downloads."""
