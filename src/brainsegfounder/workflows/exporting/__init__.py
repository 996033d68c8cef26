"""`export`: a trained model for other programs, compared with itself before it is called done."""
