"""What a passage is: the codebook, the typed record and its checks, the corpora, the splits and the agreement."""
