"""Deciding which rows are computed and whether reuse pays: cost model, plan, selection strategies."""
