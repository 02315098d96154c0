"""Coming over from ROOT's TMVA: its option strings, its weight files, its evaluation."""
