"""What remains of a run to be read and shared: one page, `report.html`, and a model card, `MODEL_CARD.md`."""
