"""The models: plain PyTorch. The files of this folder travel with a checkpoint as remote code; this one does not."""
