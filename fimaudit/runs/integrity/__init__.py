"""After the inputs are measured: are the answers those of one function whose slopes reach its decisions?"""
