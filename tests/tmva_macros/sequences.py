"""A recurrent network in PyROOT, in the manner of ROOT's tutorial; read as text, never run."""

import ROOT

n_steps = 10
n_bins = 30
n_train = 1600
cells = ["LSTM", "GRU"]
use_gpu = False
device = "GPU" if use_gpu else "CPU"

source = ROOT.TFile.Open("time_data_t{}_d{}.root".format(n_steps, n_bins))
output = ROOT.TFile.Open("out.root", "RECREATE")
factory = ROOT.TMVA.Factory("Sequences", output, V=False, Silent=False, AnalysisType="Classification")
loader = ROOT.TMVA.DataLoader("dataset")
loader.AddSignalTree(source.Get("sgn"), 1.0)
loader.AddBackgroundTree(source["bkg"], 1.0)

for i in range(n_steps):
    loader.AddVariablesArray(f"vars_time{i}", n_bins)
loader.AddSpectator("event_id")

cut_s = ROOT.TCut("")  # "loader.AddVariable('x')" in a comment is not read
cut_b = ROOT.TCut("")
loader.PrepareTrainingAndTestTree(
    cut_s,
    cut_b,
    nTrain_Signal=n_train,
    nTrain_Background=n_train,
    SplitMode="Block",
    NormMode="EqualNumEvents",
    V=False,
    CalcCorrelations=False,
)

for cell in cells:
    layout = ",".join(["%s|8|%d|%d|0|0" % (cell, n_bins, n_steps), "DENSE|16|RELU", "LINEAR"])
    strategy = "LearningRate=1e-2,ConvergenceSteps=3,BatchSize=50,TestRepetitions=2,MaxEpochs=9,Optimizer=SGD"
    if cell == "GRU":
        strategy += ",Momentum=0.9"
    elif cell == "LSTM":
        strategy += ",Momentum=0.5"
    else:
        strategy += ",this is not reached"
    factory.BookMethod(
        loader,
        ROOT.TMVA.Types.kDL,
        "Py_" + cell,
        H=False,
        V=True,
        ErrorStrategy="SUMOFSQUARES",
        WeightInitialization="GAUSS",
        InputLayout=str(n_steps) + "|" + str(n_bins),
        Layout=layout,
        TrainingStrategy=strategy,
        Architecture=device,
    )
