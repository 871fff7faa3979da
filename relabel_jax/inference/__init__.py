"""Trained networks in use: embeddings, scores, exports, the demo page."""
