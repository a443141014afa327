"""What goes into submission.zip as it stands: run.sh and src/predict.py."""
