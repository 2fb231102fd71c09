"""Two HEIC files of a drawn pattern, 64 x 48, written by pillow-heif 1.4 at quality 90: nothing here can encode them.

The pattern is ``PATTERN``. The second one has an orientation of 6, as HEIC and as EXIF, and the dates of 30 November 2026.
"""

import base64

import numpy as np

_ROWS, _COLUMNS = np.mgrid[0:48, 0:64]
PATTERN = np.stack([_COLUMNS * 4, _ROWS * 5, (_ROWS + _COLUMNS) * 2], axis=-1).astype(np.uint8)

PLAIN = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004dZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC20"
    "0001p8x>>0000000JZc001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002{X>f9I0002nX>en20001XXm(>m0RwOV00"
    "000000009`FGC{rLC*01pFT0096PKmiN^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP18@KU0|1Z!00RI30{|YNAb|yz>g1-"
    "mxCm%4AOHXZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$KmY&$C}V74Z~y=RKmY&$0RR91FaQ7m0RR91"
    "000000{{R2@Bjb+0ssI24sdCBX#fBK009U9000<iaBX1#00000000310R@2q0|kTt00Jy+WMOmw00JN=0j~x)i62N%?s%oL#LYj|`ya7cxx^*Hc|jFU*"
    "_+J=s`W{ZEK>1Mk^ztkT-Fr#S07FM#*|+&9Wy;sr)y8_-"
    "CdJPfBg}1g;WPJwRC6TD|#P=xeKaE;?f_t#W=(Hj<TxnHeSsr;LxQRhR7GhWZ@T}+(Ji~dQgLqOz)bCU*+yU{>G~>$a7OenTupiZ{lFK9s!RoiffZf?C"
    "UG@Z1qtRL<{y=uH;l%plp<R5$++j1;oVuCGjK(8;eYLupdu7oYNl=1BMf`Zj~Ahi{z3cx;lOYl|Bsr$^mt^2C~q|WZVsnw**G1`QlR*AtQYwIN;w3JmM"
    "FkLBNOFk0XZBcFx0i@SU()Sp~1Y{;HvKSWP2}_T?#;OFLUyh=0JGXS>$j{&YLKB6#?yVS%QI1O}IUf>}4%aomI_YFv}+nl@*FEVy*MFe_SUb8*c)A#(J"
    "vYb(0vC$gd`(C7CHaEbKrw^2wJv#tayzL;t75vCum23~iXppCyQ)$WDi8n>r!JH}{PqBfYQ{11^ja`^d;I8-"
    "xSgQR1}<YS~;1KtXc2(@eAv4cJgJZ9)|s6P$yBWC|4)0m}_RK2t#8eqU|j}%>O(!Vvs?5c_K9`J(z^1ZMC2wIntZ6a!3lBfvl=Fr8ACMv_#M)xKhdNN^"
    "3m~UZ$N-LtY)O{>bQWNvTOhZ4J^$yY>e2c&=>Vm!OU+Rokh$sI"
)
TURNED = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0005TZDn*}000000000XXk=`10000000000aA{+700000000000000000000G-"
    "+&aV*mgE07O6l0ssL300001>Hq-"
    "%0000000JZc0ssI200a&I0RR9100000b^rhXIB98aW&i*H00062000$fZf0cy000000RRAKc4ILB0000LX>Mj^0ssI300IC2MR;ju000004sdC7Z2$lO"
    "00031009MQaB^?}0087^aAR)(004Gqc4I>U18@KU000000000U@BsY%`1k+-4+CHT0RR|40Sp2E{{wIU00RJ!0009300RIXx&lC90096hLID8-"
    "Z~y=U0FVFx0{{R603M(qfd!W8<fgf}2xu@M00096AOHXZ03l)k0RRR>0l{;?i2wiq6Ju{|a&BX6cmM$a4FCp!0000KX>)L8000000000$0000$0000eV"
    "{Bn?0000$000010000m000010000000002|NsB+000020000EaA|mH000000SEv9010VwZ*&6y000?jaBX1#00000000310S18r0|kVJ0000QX>w&|00"
    "0000000EV`Ot<00IC3009610-"
    "|kXVRQfh0w5>>uLd}YA4pK{c%`z$%|F%qAF)}v#3jOcK^0Efo6QHR^+}E_Qt?od0gwt@))e<wA5HwmlwUF(Gd)wMYftRmU6V?G{Sk77R0lG(bZ6izdLM"
    "<k3#v)t(jT|QIK%mlva0VkUd<@r(4`rM$QQ(9;TNFXLPwZ-P=k<6@0yBV<?cWJ#;Y&Lb5lc^i)2l2;$XHO0go<<Ym-Xs>nrnY^-&T;3-"
    "(#A<WyOpY?OHs?jg1X#Kit3@gxWvi%fU0A5T4;(;pB6h7+@Hl^P9;<dP%0I(`I|J`DfL0d=<qve3w6+zpMl1V*X(;!_nNBYh({;NJ>7;uoSpz=zt8BZk"
    "p-&ck@{ov>P21+TvTs-bgOO(Tl-<tdj-J6l?af54n)yVl+QbUV5tc=)Jcfu@KA2A6z-SvS~m+=M4;T$AgXHfMn>xOBWQD_UrCam_p-"
    "a`dokE4t?=vZ5)_=l2V6iS+QdQAiiFt^_N-m}&44rXQ{bUU!<HjlV3_?uFqRx2JDA#%NihHkhdV50N@@`1y@ER5M(Iq+`eAW29RH-"
    "U^QhwQJz9gFXyAX6SLKKMnCCX8$GAn5B|by|g15V8CpT6kTl6zcs_`s)_O*@Ph#Iy|4fXT9=Y-B5Gces0i!k(8Y`<D#O)A_a+>AGGR)XZ()H-"
    "E26a2eJoK@6Z6ANLqD1I4$>cdi@+@Eg1zit>Wo*2C;tEd00u>PX=VTbO-"
    "%qQ0000800RLM00RI3009670003p00IC202BZK05XSZ00aO40096107d`+001&DGB!FfF*-"
    "9aATcsJFfckWFaQ7nkOKe$0000K0001300000GB7eWIx#UiGcX`AF*-6bIx{l>"
)
